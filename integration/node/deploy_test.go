package node

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// Every file that users copy is used by a test, or it would rot: those of deploy/containerd by deployCases, which makes a test of
// each, and the others by a test that names them. deploy/debian is the package's, which is built and installed by its own tests.
func TestDeployFilesAreUsed(t *testing.T) {
	named := literals(t)
	for _, c := range deployCases(t) {
		named[c.file] = true
	}
	files := 0
	for _, dir := range []string{"containerd", "kubernetes", "node"} {
		err := filepath.WalkDir(filepath.Join("../../deploy", dir), func(path string, entry os.DirEntry, err error) error {
			if err != nil || entry.IsDir() {
				return err
			}
			files++
			name, err := filepath.Rel("../../deploy", path)
			if err == nil && !named[name] && !named[strings.TrimPrefix(name, dir+"/")] && !named[filepath.Base(name)] {
				t.Errorf("no test uses deploy/%s", name)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if files < 10 {
		t.Errorf("%d files are found, there must be 10 at least", files)
	}
}

// literals are the texts that tests have in their code.
func literals(t *testing.T) map[string]bool {
	t.Helper()
	found := map[string]bool{}
	err := filepath.WalkDir("..", func(path string, _ os.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		ast.Inspect(file, func(node ast.Node) bool {
			if literal, ok := node.(*ast.BasicLit); ok && literal.Kind == token.STRING {
				if text, err := strconv.Unquote(literal.Value); err == nil {
					found[text] = true
				}
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}
