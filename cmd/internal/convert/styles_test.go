package convert

import (
	"bytes"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
	kyaml "sigs.k8s.io/yaml"

	"github.com/lifecycle-shim/lifecycle-shim/internal/podgen"
	"github.com/lifecycle-shim/lifecycle-shim/oci/bounded"
)

// stylist writes a tree as people do: quoted or not, in flow or block style, with
// comments, anchors and aliases.
type stylist struct {
	*rand.Rand
	anchors []*yaml.Node
}

func (s *stylist) dress(node *yaml.Node, depth int) {
	node.Style = 0
	switch node.Kind {
	case yaml.ScalarNode:
		if node.Tag == "!!str" {
			node.Style = []yaml.Style{0, 0, yaml.DoubleQuotedStyle, yaml.SingleQuotedStyle, yaml.LiteralStyle, yaml.FoldedStyle}[s.IntN(6)]
		}
	default:
		if s.IntN(4) == 0 {
			node.Style = yaml.FlowStyle
		}
	}
	if depth > 0 && s.IntN(12) == 0 {
		node.HeadComment = "# above: it's \"so\""
	}
	if s.IntN(12) == 0 {
		node.LineComment = "# beside"
	}
	for i, child := range node.Content {
		if node.Kind == yaml.MappingNode && i%2 == 0 {
			child.Style = 0 // keys stay plain
			continue
		}
		s.dress(child, depth+1)
	}
}

// share makes an alias of what is the same, and gives containers what others have.
func (s *stylist) share(node *yaml.Node) {
	for i, child := range node.Content {
		if node.Kind != yaml.MappingNode || i%2 == 0 {
			s.share(child)
			continue
		}
		key := node.Content[i-1].Value
		if child.Kind != yaml.MappingNode || (key != "lifecycle" && key != "preStop" && key != "postStart") {
			s.share(child)
			continue
		}
		if len(s.anchors) > 0 && s.IntN(3) == 0 {
			if target := s.anchors[s.IntN(len(s.anchors))]; (key == "lifecycle") == (find(target, "exec")+find(target, "httpGet")+find(target, "tcpSocket")+find(target, "sleep") == -4) {
				node.Content[i] = &yaml.Node{Kind: yaml.AliasNode, Alias: target, Value: target.Anchor}
				continue
			}
		}
		s.share(child) // what is within comes before what is around
		child.Anchor = "a" + string(rune('a'+len(s.anchors)%26)) + strings.Repeat("x", len(s.anchors)/26)
		if len(child.Content) > 0 {
			s.anchors = append(s.anchors, child)
		}
	}
}

// TestStyles: however a pod is written, its annotations are those of its meaning,
// and nothing else changes.
func TestStyles(t *testing.T) {
	compared, aliased, given := 0, 0, 0
	for seed := range uint64(300) {
		text := podgen.JSON(seed)
		root, err := bounded.Read(string(text), limits(text))
		if err != nil {
			t.Fatal(err)
		}
		s := &stylist{Rand: rand.New(rand.NewPCG(seed, 1))}
		if seed%2 == 0 {
			s.share(root)
		}
		s.dress(root, 0)
		var written bytes.Buffer
		if err := yaml.NewEncoder(&written).Encode(root); err != nil {
			continue
		}
		meaning, err := kyaml.YAMLToJSON(written.Bytes())
		if err != nil {
			continue // the libraries do not understand one another
		}
		if bytes.Contains(written.Bytes(), []byte(": *a")) {
			aliased++
		}
		operations, report, err := Pod(t.Context(), meaning, inClass)
		if err != nil {
			t.Fatal(err)
		}
		result, reportOfStream := Stream(written.Bytes(), inClass)
		if len(report.Refusals) > 0 { // an alias may bring a port's name that is another's
			if len(reportOfStream.Refusals) == 0 {
				t.Fatalf("seed %d: %v, and yet %s", seed, report.Refusals, result)
			}
			continue
		}
		if len(reportOfStream.Refusals) > 0 {
			given++
			continue
		}
		back, err := kyaml.YAMLToJSON(result)
		if err != nil {
			t.Fatal(err)
		}
		want, _ := decodeObject(patch(t, meaning, operations))
		if got, ok := decodeObject(back); !ok || !reflect.DeepEqual(got, want) {
			t.Fatalf("seed %d: got %s, want %s", seed, back, want)
		}
		compared++
	}
	t.Logf("%d compared, %d with aliases, %d given up", compared, aliased, given)
	if compared < 150 || aliased < 30 || given > 15 {
		t.Errorf("%d compared, %d with aliases, %d given up", compared, aliased, given)
	}
}
