package oci

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"unicode"
	"unicode/utf16"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// marshalASCII writes JSON like Python and PHP do by default.
func marshalASCII(v any) ([]byte, error) {
	text, err := json.Marshal(v)
	var ascii []byte
	for _, char := range string(text) {
		if char <= unicode.MaxASCII {
			ascii = append(ascii, byte(char))
			continue
		}
		for _, half := range utf16.Encode([]rune{char}) {
			ascii = fmt.Appendf(ascii, `\u%04x`, half)
		}
	}
	return ascii, err
}

// marshalRaw writes JSON with as few escapes as possible.
func marshalRaw(v any) ([]byte, error) {
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	err := encoder.Encode(v)
	raw := bytes.ReplaceAll(text.Bytes(), []byte(`\u2028`), []byte("\u2028"))
	return bytes.ReplaceAll(raw, []byte(`\u2029`), []byte("\u2029")), err
}

// generator generates blocks that Kubernetes and we accept.
type generator struct {
	*rand.Rand
	texts []string
}

func (g generator) lifecycle() *corev1.Lifecycle {
	block := &corev1.Lifecycle{}
	if g.IntN(4) > 0 {
		block.PostStart = g.handler()
	}
	if g.IntN(4) > 0 {
		block.PreStop = g.handler()
	}
	if g.IntN(2) > 0 {
		block.StopSignal = new(corev1.Signal(pick(g, sortedKeys(stopSignals))))
	}
	return block
}

func (g generator) handler() *corev1.LifecycleHandler {
	switch g.IntN(4) {
	case 0:
		command := []string{pick(g, g.texts[1:])} // the program must not be empty
		for range g.IntN(5) {
			command = append(command, g.text())
		}
		return &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: command}}
	case 1:
		get := &corev1.HTTPGetAction{
			Path: pick(g, paths), Port: g.port(), Host: pick(g, addresses),
			Scheme: pick(g, []corev1.URIScheme{"", corev1.URISchemeHTTP, corev1.URISchemeHTTPS}),
		}
		for range g.IntN(4) {
			value := strings.Map(func(r rune) rune { // a header must not have control characters
				if r < ' ' || r == 0x7f {
					return ' '
				}
				return r
			}, g.text())
			get.HTTPHeaders = append(get.HTTPHeaders, corev1.HTTPHeader{Name: pick(g, headerNames), Value: value})
		}
		return &corev1.LifecycleHandler{HTTPGet: get}
	case 2:
		return &corev1.LifecycleHandler{TCPSocket: &corev1.TCPSocketAction{Port: g.port(), Host: pick(g, addresses)}}
	default:
		return &corev1.LifecycleHandler{Sleep: &corev1.SleepAction{Seconds: pick(g, []int64{0, 1, 30, maxSeconds, g.Int64N(1e6)})}}
	}
}

func (g generator) port() intstr.IntOrString {
	return intstr.FromInt32(pick(g, []int32{1, 80, 65535, 1 + g.Int32N(65535)}))
}

// text returns an awkward text, or several nested ones.
func (g generator) text() string {
	text := pick(g, g.texts)
	for range g.IntN(3) {
		at := g.IntN(len([]rune(text)) + 1)
		runes := []rune(text)
		text = string(runes[:at]) + pick(g, g.texts) + string(runes[at:])
	}
	return text
}

func pick[T any](g generator, from []T) T { return from[g.IntN(len(from))] }
