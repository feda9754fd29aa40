// Command growth measures how cost grows with the number of containers, from one to some hundred, all in one pod and each in its
// own, and how long all of them take to stop at once. Its model says from that what a larger node does; docs/measurements.md#growth
// has the method and the last result.
//
//	make growth        or, with bin/ built:        go run -C integration ./lab/growth
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
)

func main() {
	config := Config{Progress: func(text string) { fmt.Fprintln(os.Stderr, text) }}
	flag.StringVar(&config.Bin, "bin", "../bin", "directory of the programs")
	flag.IntVar(&config.Containers, "containers", 200, "containers at the end")
	flag.DurationVar(&config.PreStop, "prestop", 5*time.Second, "how long each preStop takes: whole seconds")
	tables := flag.String("tables", "", "also write the tables to this file, as Markdown")
	flag.Parse()
	if err := measure(config, *tables); err != nil {
		fmt.Fprintln(os.Stderr, "growth:", err)
		os.Exit(1)
	}
}

func measure(config Config, tables string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	began := time.Now()
	results, err := Measure(ctx, config)
	if err != nil {
		return err
	}
	results.Date, results.Commit = began.UTC().Format(time.DateOnly), harness.Commit()
	fmt.Fprint(os.Stdout, results.Tables())
	if err := json.NewEncoder(os.Stdout).Encode(results); err != nil || tables == "" {
		return err
	}
	return os.WriteFile(tables, []byte(results.Tables()), 0o644)
}
