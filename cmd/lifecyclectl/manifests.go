package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"github.com/lifecycle-shim/lifecycle-shim/cmd/internal/convert"
)

// manifests holds the values of -f, -R, --pods-at, --runtime-class and the operator's
// limits.
type manifests struct {
	names     []string
	recursive bool
	rules     convert.Rules
	podsAt    []string
	podPaths  []convert.PodPath // of podsAt
}

// manifestExtensions are those that kubectl reads from a directory.
var manifestExtensions = []string{"json", "yaml", "yml"}

func (m *manifests) addFlags(command *cobra.Command) {
	flags := command.Flags()
	flags.StringSliceVarP(&m.names, "filename", "f", nil, "a file, a directory (its .yaml, .yml and .json files), or - for stdin; may be repeated")
	flags.BoolVarP(&m.recursive, "recursive", "R", false, "read the directories below a directory too")
	flags.StringVar(&m.rules.RuntimeClass, "runtime-class", convert.DefaultRuntimeClass, "name of the RuntimeClass whose handler is this shim")
	flags.StringArrayVar(&m.podsAt, "pods-at", nil, "KIND[.GROUP]=PATH: where an unknown kind has its pod templates, such as RayCluster.ray.io=spec.workerGroupSpecs[*].template; may be repeated")
	convert.AddLimits(flags, &m.rules.Limits)
	_ = command.MarkFlagRequired("filename") // the flag is there
	_ = command.MarkFlagFilename("filename", manifestExtensions...)
}

// manifest is one file.
type manifest struct {
	name string
	data []byte
}

// read reads all files, in the order in which they are named.
func (m *manifests) read(stdin io.Reader) ([]manifest, error) {
	if m.rules.RuntimeClass == "" {
		return nil, errors.New("--runtime-class is empty: give the name of a RuntimeClass, such as lifecycle")
	}
	for _, text := range m.podsAt {
		path, err := convert.ParsePodPath(text)
		if err != nil {
			return nil, fmt.Errorf("--pods-at: %w", err)
		}
		m.podPaths = append(m.podPaths, path)
	}
	var all []manifest
	for _, name := range m.names {
		if name == "-" {
			data, err := io.ReadAll(stdin)
			if err != nil {
				return nil, fmt.Errorf("cannot read stdin: %w", err)
			}
			all = append(all, manifest{"stdin", data})
			continue
		}
		files, err := m.files(name)
		if err != nil {
			return nil, err
		}
		for _, file := range files {
			data, err := os.ReadFile(file)
			if err != nil {
				return nil, err
			}
			all = append(all, manifest{file, data})
		}
	}
	return all, nil
}

// files lists the manifests in a directory, or returns the file itself.
func (m *manifests) files(name string) ([]string, error) {
	var files []string
	err := filepath.WalkDir(name, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case path == name && !entry.IsDir():
			files = append(files, path)
		case entry.IsDir() && path != name && !m.recursive:
			return fs.SkipDir
		case !entry.IsDir() && slices.Contains(manifestExtensions, trimDot(filepath.Ext(path))):
			files = append(files, path)
		}
		return nil
	})
	if err == nil && len(files) == 0 {
		err = fmt.Errorf("%s has no .yaml, .yml or .json file", name)
	}
	return files, err
}

func trimDot(extension string) string {
	if extension == "" {
		return ""
	}
	return extension[1:]
}

// say writes findings, each with the file's name, and with the line if it is known.
func say(to io.Writer, kind, name string, findings []convert.Finding) {
	for _, finding := range findings {
		place := name
		if finding.Line > 0 {
			place = fmt.Sprintf("%s:%d", name, finding.Line)
		}
		fmt.Fprintf(to, "%s%s: %s\n", kind, place, finding)
	}
}

func counted(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
