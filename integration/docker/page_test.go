package docker

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
	"github.com/lifecycle-shim/lifecycle-shim/integration/image"
	"github.com/lifecycle-shim/lifecycle-shim/internal/docpage"
)

// page is docs/use/ctr-nerdctl-docker.md.
func page(t testing.TB) string {
	t.Helper()
	return docpage.Read(t, "docs/use/ctr-nerdctl-docker.md")
}

// Every command of the page is run, in its order, with the real nginx image. What its comment says is asserted:
//
//	# exit status 125    that exit status, and else 0
//	# after 2 s          it takes at least that
//	# → Created          its output has this word, or these words
func TestEveryCommandOfThePage(t *testing.T) {
	b := newBench(t)
	b.loadNginx()
	if err := os.WriteFile(filepath.Join(b.dir, "compose.yaml"), []byte(composeFile(t)), 0o600); err != nil {
		t.Fatal(err)
	}
	b.Cleanup(func() { // what a failure has left in the middle of the page
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		defer cancel()
		for _, command := range []string{
			"docker rm --force web slow unlucky patient", "nerdctl rm --force web", "ctr task rm --force web", "ctr container rm web",
			"docker compose --file " + filepath.Join(b.dir, "compose.yaml") + " down",
		} {
			_, _ = b.docker.Run(ctx, nil, strings.Fields(command)...) // the look for leaks judges
		}
	})
	blocks := shellBlocks(t)
	for i, block := range blocks {
		if block.meanwhile {
			continue // run with the one before
		}
		last := len(block.commands) - 1
		for n, command := range block.commands {
			if n == last && i+1 < len(blocks) && blocks[i+1].meanwhile {
				b.meanwhile(command, blocks[i+1].commands)
				continue
			}
			b.check(command, b.command("bash", "-c", b.here(command)))
		}
	}
}

// here is the command in the test's directory, where the page's compose.yaml is.
func (b *bench) here(command pageCommand) string { return "cd '" + b.dir + "'\n" + command.text }

// loadNginx gives docker and nerdctl the demo's image under the page's name.
func (b *bench) loadNginx() {
	b.Helper()
	nginx, err := image.Build(b.Context(), "../../.cache", func(what string) { b.Log(what) })
	if err != nil {
		b.Fatal(err)
	}
	b.ok("docker", "load", "--input", nginx.Archive)
	b.ok("docker", "tag", image.Ref, "nginx")
	archive := filepath.Join(b.dir, "nginx.tar")
	b.ok("docker", "save", "--output", archive, "nginx")
	b.ok("nerdctl", "load", "--input", archive)
}

// meanwhile runs the commands of another terminal while the first one has not ended. They are repeated until what the page says is so.
func (b *bench) meanwhile(first pageCommand, commands []pageCommand) {
	b.Helper()
	done := b.later("bash", "-c", b.here(first))
	for _, command := range commands {
		var out harness.Output
		b.poll(command.text, func() bool {
			out = b.command("bash", "-c", b.here(command))
			return command.wrong(out) == ""
		})
		b.check(command, out)
	}
	b.check(first, b.answer(done, first.status))
}

func (b *bench) check(command pageCommand, out harness.Output) {
	b.Helper()
	if wrong := command.wrong(out); wrong != "" {
		b.Fatalf("%s\n%s: it has ended with status %d after %v\n%s%s", command.text, wrong, out.Status, out.Took, out.Stdout, out.Stderr)
	}
}

// pageBlock is a block of shell commands of the page.
type pageBlock struct {
	meanwhile bool // in another terminal, while the command before it runs
	commands  []pageCommand
}

// pageCommand is a command as one would type it, and what its comment says of it.
type pageCommand struct {
	text    string
	status  int
	seconds int    // that it takes at least
	says    string // in its output
}

var (
	shellBlock = regexp.MustCompile("(?s)([^\n]*)\n\n```sh\n(.*?)```")
	remark     = regexp.MustCompile(`(?m)\s+# (.*)$`)
	status     = regexp.MustCompile(`exit status (\d+)`)
	seconds    = regexp.MustCompile(`after (\d+) s`)
	says       = regexp.MustCompile(`→ (.*)`)
)

func shellBlocks(t *testing.T) []pageBlock {
	t.Helper()
	var blocks []pageBlock
	count := 0
	for _, match := range shellBlock.FindAllStringSubmatch(page(t), -1) {
		block := pageBlock{meanwhile: strings.HasSuffix(match[1], "meanwhile:")}
		var command string
		for line := range strings.Lines(match[2]) {
			command += line
			if whole(t, command) {
				block.commands = append(block.commands, parseCommand(t, command))
				command = ""
			}
		}
		if command != "" {
			t.Fatalf("the page has a command without an end: %s", command)
		}
		count += len(block.commands)
		blocks = append(blocks, block)
	}
	if strings.Count(page(t), "```sh") != len(blocks) || count < 30 {
		t.Fatalf("%d commands in %d blocks of the page: is it still written as this test reads it?", count, len(blocks))
	}
	return blocks
}

// whole says whether the shell would take these lines as a command that needs no more.
func whole(t *testing.T, text string) bool {
	t.Helper()
	return !strings.HasSuffix(text, "\\\n") && exec.CommandContext(t.Context(), "bash", "-n", "-c", text).Run() == nil
}

func parseCommand(t *testing.T, text string) pageCommand {
	t.Helper()
	command := pageCommand{text: strings.TrimSpace(text)}
	comments := remark.FindAllStringSubmatch(command.text, -1)
	if len(comments) == 0 {
		return command
	}
	comment := comments[len(comments)-1][1]
	number := func(pattern *regexp.Regexp) int {
		match := pattern.FindStringSubmatch(comment)
		if match == nil {
			return 0
		}
		n, err := strconv.Atoi(match[1])
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	command.status, command.seconds = number(status), number(seconds)
	if match := says.FindStringSubmatch(comment); match != nil {
		command.says = match[1]
	}
	return command
}

// wrong says what is not as the page says; empty: nothing.
func (c pageCommand) wrong(out harness.Output) string {
	words := regexp.MustCompile(`(^|\W)` + regexp.QuoteMeta(c.says) + `($|\W)`)
	switch {
	case out.Status != c.status:
		return fmt.Sprintf("want exit status %d", c.status)
	case out.Took.Seconds() < float64(c.seconds):
		return fmt.Sprintf("want it to take %d s", c.seconds)
	case !words.MatchString(out.Stdout + out.Stderr):
		return fmt.Sprintf("want %q in its output", c.says)
	}
	return ""
}

// pageSettings are the page's daemon.json, with the file that it names.
func pageSettings(text, dir string) (map[string]any, error) {
	body := strings.Join(docpage.Blocks(text, "json"), "")
	const file = "/etc/lifecycle-shim/docker.toml"
	if !strings.Contains(body, file) {
		return nil, fmt.Errorf("the page's daemon.json does not name %s", file)
	}
	own := filepath.Join(dir, "docker.toml")
	var settings map[string]any
	if err := json.Unmarshal([]byte(strings.ReplaceAll(body, file, own)), &settings); err != nil {
		return nil, fmt.Errorf("the page's daemon.json: %w", err)
	}
	return settings, os.WriteFile(own, []byte("DefaultGracePeriod = \"3s\"\n"), 0o600)
}

// composeFile is the page's compose.yaml.
func composeFile(t *testing.T) string {
	t.Helper()
	blocks := docpage.Blocks(page(t), "yaml")
	if len(blocks) != 1 || !strings.HasPrefix(blocks[0], "services:") {
		t.Fatalf("the page has the blocks %q, want one compose.yaml", blocks)
	}
	return blocks[0]
}
