// Command image writes the product's container image as an OCI archive: a tar of an OCI image layout, whose index has a manifest for
// each architecture.
//
//	image -out FILE -name REPOSITORY -version VERSION -revision REVISION ARCH=DIR…
//
// DIR holds the files of the image for ARCH. The archive depends on their names, contents and execute permissions, on the flags and
// on SOURCE_DATE_EPOCH, and on nothing else: owners are root, and all times are SOURCE_DATE_EPOCH.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/lifecycle-shim/lifecycle-shim/tools/internal/epoch"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

// build says what an image is of.
type build struct {
	version, revision string
	created           time.Time
}

func run(args []string) error {
	flags := flag.NewFlagSet("image", flag.ContinueOnError)
	out := flags.String("out", "", "the file to write")
	repository := flags.String("name", "", "the image's name, without a tag: the version is the tag")
	version := flags.String("version", "", "the version of the programs")
	revision := flags.String("revision", "", "the commit that they are built from")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *out == "" || *version == "" || *revision == "" || flags.NArg() == 0 {
		return errors.New("-out, -version, -revision and at least one ARCH=DIR are needed")
	}
	tag, err := name.NewTag(*repository+":"+*version, name.StrictValidation)
	if err != nil {
		return fmt.Errorf("the image's name: %w", err)
	}
	created, err := epoch.Time()
	if err != nil {
		return err
	}
	b := build{version: *version, revision: *revision, created: created}
	index, err := b.index(flags.Args())
	if err != nil {
		return err
	}
	return writeArchive(*out, tag, index, created)
}

// platform splits ARCH=DIR.
func platform(arg string) (arch, dir string, err error) {
	arch, dir, ok := strings.Cut(arg, "=")
	if !ok || arch == "" || dir == "" {
		return "", "", fmt.Errorf("%q is not ARCH=DIR", arg)
	}
	return arch, dir, nil
}
