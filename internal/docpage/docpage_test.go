package docpage

import (
	"reflect"
	"strings"
	"testing"
)

const page = "# A page\n\n## One\n\n```sh\n# a comment\nls\n```\n\n### Below\n\n```yaml\na: 1\n```\n\n## Two\n\n| head | of it |\n|---|:--|\n| a | b |\n| | c |\n\n```sh\nrm\n```\n"

func TestSection(t *testing.T) {
	for heading, want := range map[string]string{"## One": "a: 1", "### Below": "a: 1", "# A page": "rm"} {
		if got := Section(page, heading); !strings.Contains(got, want) || heading == "## One" && strings.Contains(got, "Two") || heading == "### Below" && strings.Contains(got, "ls") {
			t.Errorf("%s: got %q", heading, got)
		}
	}
	if got := Section(page, "## Three"); got != "" {
		t.Errorf("got %q of a section that the page does not have", got)
	}
}

func TestBlocks(t *testing.T) {
	if got := Blocks(page, "sh"); !reflect.DeepEqual(got, []string{"# a comment\nls\n", "rm\n"}) {
		t.Errorf("got %q", got)
	}
}

func TestRows(t *testing.T) {
	if got := Rows(page); !reflect.DeepEqual(got, [][]string{{"a", "b"}, {"", "c"}}) {
		t.Errorf("got %q", got)
	}
}

func TestRead(t *testing.T) {
	if text := Read(t, "internal/docpage/docpage.go"); !strings.Contains(text, "package docpage") {
		t.Errorf("got %q", text)
	}
}
