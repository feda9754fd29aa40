// Command sbom prints what is linked into the product's programs, as a CycloneDX document: the Go modules that each program
// names itself, and the C libraries, which no program names.
//
//	sbom VERSION BIN ARCH PROGRAM… NAME=DEBIANVERSION…
//
// BIN is the absolute path of the directory with the programs, ARCH as Go and Debian have it, each NAME a Debian source package
// whose library is linked into the programs that contain C. The document depends on nothing but these and SOURCE_DATE_EPOCH.
package main

import (
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	cdx "github.com/CycloneDX/cyclonedx-go"

	"github.com/lifecycle-shim/lifecycle-shim/tools/internal/epoch"
)

const (
	product = "lifecycle-shim"
	home    = "https://github.com/lifecycle-shim/lifecycle-shim"
)

func main() {
	if len(os.Args) < 5 {
		fmt.Fprintln(os.Stderr, "usage: sbom VERSION BIN ARCH PROGRAM… NAME=DEBIANVERSION…")
		os.Exit(2)
	}
	if err := write(os.Stdout, os.Args[1], os.Args[2], os.Args[3], os.Args[4:]); err != nil {
		fmt.Fprintln(os.Stderr, "sbom:", err)
		os.Exit(1)
	}
}

// write prints the document about what is in bin: names are those of programs and, with a version each, of libraries.
func write(out io.Writer, version, bin, arch string, names []string) error {
	made, err := epoch.Time()
	if err != nil {
		return err
	}
	programs, linked := split(names)
	if len(programs) == 0 {
		return errors.New("no program is named")
	}
	b := &bill{version: version, known: map[string]bool{}}
	libraries, err := b.addLibraries(arch, linked)
	if err != nil {
		return err
	}
	for _, name := range programs {
		if err := b.addProgram(filepath.Join(bin, name), libraries); err != nil {
			return err
		}
	}
	b.depends(product, b.programs)
	document := cdx.NewBOM()
	document.Metadata = &cdx.Metadata{
		Timestamp: made.Format(time.RFC3339),
		Component: &cdx.Component{
			BOMRef: product, Type: cdx.ComponentTypeApplication, Name: product, Version: version,
			Licenses:           &cdx.Licenses{{License: &cdx.License{ID: "Apache-2.0"}}},
			ExternalReferences: &[]cdx.ExternalReference{{Type: cdx.ERTypeVCS, URL: home}},
			Properties:         &[]cdx.Property{{Name: "architecture", Value: arch}},
		},
	}
	document.Components, document.Dependencies = &b.components, &b.dependencies
	// Of 2023: what scanners can read.
	return cdx.NewBOMEncoder(out, cdx.BOMFileFormatJSON).SetPretty(true).SetEscapeHTML(false).EncodeVersion(document, cdx.SpecVersion1_5)
}

// split tells programs from libraries, which have a version after them.
func split(names []string) (programs, libraries []string) {
	for _, name := range names {
		if strings.Contains(name, "=") {
			libraries = append(libraries, name)
		} else {
			programs = append(programs, name)
		}
	}
	return programs, libraries
}

// bill is a document that is being put together, in the order of the calls.
type bill struct {
	version      string
	components   []cdx.Component
	dependencies []cdx.Dependency
	programs     []string // their references
	known        map[string]bool
}

func (b *bill) depends(on string, what []string) {
	sorted := slices.Compact(slices.Sorted(slices.Values(what)))
	b.dependencies = append(b.dependencies, cdx.Dependency{Ref: on, Dependencies: &sorted})
}

// addLibraries adds the C libraries, and returns their references.
func (b *bill) addLibraries(arch string, linked []string) ([]string, error) {
	var refs []string
	for _, pair := range linked {
		name, version, _ := strings.Cut(pair, "=")
		if name == "" || version == "" {
			return nil, fmt.Errorf("%q is not NAME=VERSION", pair)
		}
		refs = append(refs, b.addLibrary(name, version, fmt.Sprintf("pkg:deb/debian/%s@%s?arch=%s", name, version, arch)))
	}
	return refs, nil
}

func (b *bill) addLibrary(name, version, purl string) string {
	if !b.known[purl] {
		b.known[purl] = true
		b.components = append(b.components, cdx.Component{
			BOMRef: purl, Type: cdx.ComponentTypeLibrary, Name: name, Version: version, PackageURL: purl,
		})
	}
	return purl
}

// addProgram adds a program with its hash, and the modules that it was built of.
func (b *bill) addProgram(path string, libraries []string) error {
	info, err := buildinfo.ReadFile(path)
	if err != nil {
		return err
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	hash := sha256.Sum256(data)
	name := filepath.Base(path)
	b.programs = append(b.programs, name)
	b.components = append(b.components, cdx.Component{
		BOMRef: name, Type: cdx.ComponentTypeApplication, Name: name, Version: b.version,
		Hashes: &[]cdx.Hash{{Algorithm: cdx.HashAlgoSHA256, Value: hex.EncodeToString(hash[:])}},
	})
	needs := []string{b.addModule(&debug.Module{Path: "std", Version: strings.TrimPrefix(info.GoVersion, "go")})}
	if hasC(info) {
		needs = append(needs, libraries...)
	}
	for _, module := range info.Deps {
		needs = append(needs, b.addModule(module))
	}
	b.depends(name, needs)
	return nil
}

// hasC reports whether C libraries are linked into a program.
func hasC(info *debug.BuildInfo) bool {
	return slices.Contains(info.Settings, debug.BuildSetting{Key: "CGO_ENABLED", Value: "1"})
}

func (b *bill) addModule(module *debug.Module) string {
	if module.Replace != nil {
		module = module.Replace
	}
	return b.addLibrary(module.Path, module.Version, fmt.Sprintf("pkg:golang/%s@%s", module.Path, module.Version))
}
