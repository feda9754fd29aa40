// Command testlogger is a binary:// logger for the tests, made with containerd's own
// library: it writes a container's stdout and stderr to a file.
//
//	testlogger FILE PATH    as binary:///…/testlogger?FILE=PATH calls it
package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log"
	"os"
	"sync"

	"github.com/containerd/containerd/v2/core/runtime/v2/logging"
)

func main() {
	if len(os.Args) != 3 || os.Args[1] != "FILE" {
		log.Fatalf("usage: %s FILE PATH", os.Args[0])
	}
	logging.Run(func(_ context.Context, config *logging.Config, ready func() error) error {
		file, err := os.OpenFile(os.Args[2], os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
		if err != nil {
			return err
		}
		defer file.Close()
		var all sync.WaitGroup
		for name, stream := range map[string]io.Reader{"stdout": config.Stdout, "stderr": config.Stderr} {
			all.Go(func() {
				for lines := bufio.NewScanner(stream); lines.Scan(); {
					fmt.Fprintf(file, "%s: %s\n", name, lines.Text())
				}
			})
		}
		if err := ready(); err != nil {
			return err
		}
		all.Wait()
		return nil
	})
}
