// Package podgen makes pods with lifecycle handlers that an API server accepts and
// that are as awkward as it lets them be: quotes, backslashes, control characters, all
// planes of Unicode, long texts, named ports, sidecars, and annotations that are
// there already. Tests compare with them what converts pods.
//
// A pod follows from its seed alone, so a failure is repeated by its number. It
// imports nothing that is under test.
package podgen

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// RuntimeClass is what every pod names.
const RuntimeClass = "lifecycle"

const (
	// maxGrace bounds a pod's grace period, in seconds.
	maxGrace = 3600
	// longText bounds a long text, in characters: with six bytes each, as JSON
	// escapes a control character, it fills a third of an annotation's 64 KiB.
	longText = 3500
	// inLong: one text of so many is long.
	inLong = 60
)

// Pod returns the pod of a seed. It has a name of its own, is in the namespace
// default, and names no node.
func Pod(seed uint64) *corev1.Pod {
	g := &generator{Rand: rand.New(rand.NewPCG(seed, 0x6c696665))}
	return g.pod(fmt.Sprintf("generated-%d", seed))
}

// JSON is Pod as a manifest.
func JSON(seed uint64) []byte {
	text, err := json.Marshal(Pod(seed))
	if err != nil {
		panic(err) // the types are Kubernetes' own
	}
	return text
}

type generator struct {
	*rand.Rand
	// grace bounds what sleeps, as the API server's check does.
	grace int64
	// left bounds the long texts of a container, so that its annotation is below 64 KiB.
	left int
}

// in is true once in n times.
func (g *generator) in(n int) bool { return g.IntN(n) == 0 }

func pick[T any](g *generator, from []T) T { return from[g.IntN(len(from))] }

func (g *generator) pod(name string) *corev1.Pod {
	pod := &corev1.Pod{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: metav1.NamespaceDefault},
		Spec: corev1.PodSpec{
			RuntimeClassName: new(RuntimeClass),
			OS:               &corev1.PodOS{Name: corev1.Linux}, // stopSignal needs it
			RestartPolicy:    pick(g, []corev1.RestartPolicy{"", corev1.RestartPolicyAlways, corev1.RestartPolicyNever}),
		},
	}
	g.grace = corev1.DefaultTerminationGracePeriodSeconds
	if !g.in(3) {
		g.grace = pick(g, []int64{0, 1, 2, 30, 60, maxGrace, g.Int64N(maxGrace)})
		pod.Spec.TerminationGracePeriodSeconds = new(g.grace)
	}
	if g.in(2) {
		pod.Annotations = g.otherAnnotations()
	}
	names := g.names(1 + g.IntN(5))
	for i, name := range names {
		container := corev1.Container{Name: name, Image: "registry.invalid/image:1", Ports: g.ports()}
		switch {
		case i > 0 && g.in(4):
			if g.in(3) { // Kubernetes allows it no handlers
				pod.Spec.InitContainers = append(pod.Spec.InitContainers, container)
				continue
			}
			container.RestartPolicy = new(corev1.ContainerRestartPolicyAlways)
			container.Lifecycle = g.lifecycle(container.Ports)
			pod.Spec.InitContainers = append(pod.Spec.InitContainers, container)
		default:
			container.Lifecycle = g.lifecycle(container.Ports)
			pod.Spec.Containers = append(pod.Spec.Containers, container)
		}
	}
	g.annotated(pod, names)
	return pod
}

// otherAnnotations are none of the shim's.
func (g *generator) otherAnnotations() map[string]string {
	annotations := map[string]string{"example.org/note": g.text(), "note": g.text()}
	if g.in(3) {
		annotations["lifecycle-shim.io.example.org/lifecycle"] = g.text()
	}
	return annotations
}

// annotated: of some pods, a container has its annotation already; of a few, all.
// Their native handlers are none, or the same.
func (g *generator) annotated(pod *corev1.Pod, names []string) {
	if pod.Annotations == nil {
		pod.Annotations = map[string]string{}
	}
	grace := max(1, g.grace)
	block := fmt.Sprintf(`{"preStop":{"sleep":{"seconds":0}},"terminationGracePeriodSeconds":%d}`, grace)
	if name := pick(g, names); g.in(12) {
		pod.Annotations[name+".lifecycle-shim.io/lifecycle"] = block
		g.twice(pod, name)
	}
	if g.in(40) {
		pod.Annotations["lifecycle-shim.io/lifecycle"] = block
		g.twice(pod, names...)
	}
	if g.in(3) {
		pod.Annotations["lifecycle-shim.io/sidecars"] = pick(g, []string{"Move", "Keep"})
	}
	if len(pod.Annotations) == 0 {
		pod.Annotations = nil
	}
}

// twice gives these containers no native handlers, or those of the annotation.
func (g *generator) twice(pod *corev1.Pod, names ...string) {
	for _, list := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for i := range list {
			if list[i].Lifecycle == nil || !slices.Contains(names, list[i].Name) {
				continue
			}
			list[i].Lifecycle = nil
			if g.in(2) {
				list[i].Lifecycle = &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{Sleep: &corev1.SleepAction{Seconds: 0}}}
			}
		}
	}
}

// names are different RFC 1123 labels.
func (g *generator) names(n int) []string {
	const letters = "abcdefghijklmnopqrstuvwxyz0123456789"
	var names []string
	for len(names) < n {
		name := []byte{letters[g.IntN(len(letters))]}
		length := pick(g, []int{0, 1, 4, 8, 61, g.IntN(61)})
		for range length {
			name = append(name, pick(g, []byte(letters+"--")))
		}
		name = append(name, letters[g.IntN(len(letters))])
		if !slices.Contains(names, string(name)) {
			names = append(names, string(name))
		}
	}
	return names
}

// ports have different names, or none.
func (g *generator) ports() []corev1.ContainerPort {
	var ports []corev1.ContainerPort
	for _, name := range []string{"http", "a", "metrics-1", "8080-tcp", "z0123456789-abc"} {
		if g.in(2) {
			continue
		}
		if g.in(4) {
			name = ""
		}
		ports = append(ports, corev1.ContainerPort{Name: name, ContainerPort: g.portNumber(), Protocol: pick(g, []corev1.Protocol{"", "TCP", "UDP"})})
	}
	return ports
}

func (g *generator) portNumber() int32 {
	return pick(g, []int32{1, 80, 8080, 65535, 1 + g.Int32N(65535)})
}

// lifecycle is nil, empty, or has one handler or two.
func (g *generator) lifecycle(ports []corev1.ContainerPort) *corev1.Lifecycle {
	g.left = 1
	if g.in(6) {
		return nil
	}
	lifecycle := &corev1.Lifecycle{}
	if g.in(12) {
		return lifecycle
	}
	if !g.in(3) {
		lifecycle.PostStart = g.handler(ports)
	}
	if !g.in(3) {
		lifecycle.PreStop = g.handler(ports)
	}
	if g.in(3) {
		lifecycle.StopSignal = new(pick(g, []corev1.Signal{corev1.SIGTERM, corev1.SIGQUIT, corev1.SIGKILL, corev1.SIGWINCH, corev1.SIGRTMIN, corev1.SIGRTMINPLUS3, corev1.SIGRTMAX}))
	}
	return lifecycle
}

func (g *generator) handler(ports []corev1.ContainerPort) *corev1.LifecycleHandler {
	switch g.IntN(6) {
	case 0:
		return &corev1.LifecycleHandler{Sleep: &corev1.SleepAction{Seconds: pick(g, []int64{0, g.grace, g.Int64N(g.grace + 1)})}}
	case 1:
		return &corev1.LifecycleHandler{TCPSocket: &corev1.TCPSocketAction{Port: g.port(ports), Host: pick(g, hosts)}}
	case 2, 3:
		return &corev1.LifecycleHandler{HTTPGet: g.httpGet(ports)}
	default:
		command := []string{pick(g, awkward[1:])} // a program has a name
		for range g.IntN(6) {
			command = append(command, g.text())
		}
		return &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: command}}
	}
}

func (g *generator) httpGet(ports []corev1.ContainerPort) *corev1.HTTPGetAction {
	get := &corev1.HTTPGetAction{
		Path: pick(g, []string{"", "/", "a", "?a=b", "/x" + withoutControl(strings.ReplaceAll(g.text(), "%", "%25"))}),
		Port: g.port(ports), Host: pick(g, hosts),
		Scheme: pick(g, []corev1.URIScheme{"", corev1.URISchemeHTTP, corev1.URISchemeHTTPS}),
	}
	for range g.IntN(4) {
		get.HTTPHeaders = append(get.HTTPHeaders, corev1.HTTPHeader{Name: pick(g, headerNames), Value: withoutControl(g.text())})
	}
	return get
}

// port is a number, or the name of one of the container's ports.
func (g *generator) port(ports []corev1.ContainerPort) intstr.IntOrString {
	if len(ports) > 0 && g.in(2) {
		if port := pick(g, ports); port.Name != "" {
			return intstr.FromString(port.Name)
		}
	}
	return intstr.FromInt32(g.portNumber())
}

// withoutControl: neither a URL nor a header can hold them.
func withoutControl(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, text)
}

// text is an awkward one, some of them in one another, one of random characters, or
// a long one.
func (g *generator) text() string {
	switch {
	case g.left > 0 && g.in(inLong):
		g.left--
		return g.random(longText)
	case g.in(4):
		return g.random(1 + g.IntN(20))
	}
	text := []rune(pick(g, awkward))
	for range g.IntN(3) {
		text = slices.Insert(text, g.IntN(len(text)+1), []rune(pick(g, awkward))...)
	}
	return string(text)
}

// random has characters of all planes, and all control characters but NUL, which
// no program can be given.
func (g *generator) random(length int) string {
	var text strings.Builder
	for range length {
		var char rune
		switch g.IntN(4) {
		case 0:
			char = 1 + g.Int32N(0x9f)
		case 1:
			char = 1 + g.Int32N(0xd7ff)
		case 2:
			char = 0xe000 + g.Int32N(0x110000-0xe000)
		default:
			char = ' ' + g.Int32N(0x5f)
		}
		text.WriteRune(char)
	}
	return text.String()
}

var (
	// awkward: what JSON, YAML, CEL or a shell have a meaning for. The first one
	// is empty.
	awkward = []string{
		"", " ", "  a  ", "a", "/bin/sh", "-c", "echo $HOME ${HOME} $(HOME) $$(HOME)", "-", "- a", "?", ": ", "a: b", "#", "a #b", ",", "[", "]", "{", "}", "{}", "{{a}}",
		"&a", "*a", "!a", "!!str a", "|", ">", "@", "`", "`a`", "%", "%s%d", "'", "''", "'''", `"`, `""`, `"""`, `it's "so"`, `\`, `\\`, `\\\`, `\n`, `\"`, `\u0041`, `\ud83d`,
		`\ud83d\ude00`, `\x41`, `\0`, "---", "...", "yes", "no", "true", "null", "~", "0", "017", "0x1F", "1e3", "1_000", ".inf", "12:30:45", "2026-01-01", "<<", "=",
		"<a href='b'>&amp;</a>", "a\nb", "a\n", "\na", "\n", "  a\n b\n", "\t", "a\tb", "\r", "a\r\nb", "\b", "\f", "\v", "\u0001", "\u001b[31m", "\u001f", "\u007f", "\u0080", "\u0085",
		"\u009f", "\u00a0", "\u00ad", "größe", "大小", "e\u0301", "\u200b", "\u200e", "\u2028", "\u2029", "\u202e", "\ufeff", "\ufffd", "\ufffe", "\uffff", "\ud7ff", "\ue000", "😀", "👩‍👩‍👧",
		"\U00010000", "\U0001fffe", "\U0010ffff", "#!/bin/sh\nset -e\necho \"$1\" # x\n", `{"exec":{"command":["a"]}}`, "lifecycle-shim.io/lifecycle", strings.Repeat("long ", 60),
	}
	hosts       = []string{"", "", "localhost", "127.0.0.1", "10.0.0.1", "::1", "fd00::1", "::ffff:10.0.0.1"}
	headerNames = []string{"X", "X-Y", "Host", "Accept", "User-Agent", "y", "null", "1e3", "-", "0"}
)
