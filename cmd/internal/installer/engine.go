package installer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/lifecycle-shim/lifecycle-shim/cmd/internal/installer/host"
)

// Limits of the node's commands, from their start. An installation writes some 60 MB, and waits for containerd's restart;
// a check runs one container. They are far above what a busy node needs.
const (
	statusLimit  = time.Minute
	installLimit = 5 * time.Minute
	checkLimit   = 3 * time.Minute
)

// runner runs lifecyclectl on the node.
type runner interface {
	Run(ctx context.Context, program string, args ...string) (host.Output, error)
}

// engine is `lifecyclectl node`. Its errors are Failures, unless ctx ends.
type engine struct {
	runner   runner
	programs string // directory of the image's programs
	prefix   string // empty: the engine chooses
	settings string // file of the image; empty: none
	restart  string // systemd, terminate or none
}

// answer is what install and uninstall print.
type answer struct {
	Layout     string `json:"layout"`
	Containerd struct {
		Version string `json:"version"`
		Unit    string `json:"unit"`
	} `json:"containerd"`
	Programs string   `json:"programs"`
	Changed  bool     `json:"changed"`
	Restart  string   `json:"restart"`
	Failure  *Failure `json:"error"`
}

// Values of answer.Restart.
const (
	restartNeeded = "needed"
	byHand        = "none" // of --restart-by
)

// checked is what check prints.
type checked struct {
	OK       bool `json:"ok"`
	Findings []struct {
		Level   string `json:"level"`
		Message string `json:"message"`
		Cure    string `json:"cure"`
	} `json:"findings"`
	SelfTest struct {
		OK      bool   `json:"ok"`
		Message string `json:"message"`
	} `json:"selfTest"`
}

// status says how the node is.
func (e engine) status(ctx context.Context) (Status, error) {
	var status Status
	_, err := e.ask(ctx, statusLimit, &status, "status", e.withSettings()...)
	return status, err
}

// install puts programs and configuration in place; restart: containerd may be restarted.
func (e engine) install(ctx context.Context, restart bool) (answer, error) {
	by := byHand
	if restart {
		by = e.restart
	}
	return e.change(ctx, "install", append(e.withSettings(), "--restart-by="+by)...)
}

// uninstall leaves the node as it was.
func (e engine) uninstall(ctx context.Context) (answer, error) {
	return e.change(ctx, "uninstall", "--restart-by="+e.restart)
}

func (e engine) change(ctx context.Context, verb string, args ...string) (answer, error) {
	var a answer
	complaint, err := e.ask(ctx, installLimit, &a, verb, args...)
	switch {
	case err != nil:
		return a, err
	case a.Failure != nil:
		return a, a.Failure
	case complaint != "":
		return a, &Failure{Step: verb, Message: complaint}
	}
	return a, nil
}

// check runs the node's checks and a container with handlers.
func (e engine) check(ctx context.Context) error {
	var c checked
	complaint, err := e.ask(ctx, checkLimit, &c, "check")
	if err != nil {
		return err
	}
	if c.OK && complaint == "" {
		return nil
	}
	failure := &Failure{Step: "check", Message: c.SelfTest.Message, Cure: "run `lifecyclectl doctor` on the node; containerd's log has more"}
	for _, finding := range c.Findings {
		if finding.Level == "fault" {
			failure.Message, failure.Cure = finding.Message, finding.Cure
			break // the first; the others often follow from it
		}
	}
	if failure.Message == "" {
		failure.Message = complaint
	}
	return failure
}

func (e engine) withSettings() []string {
	if e.settings == "" {
		return nil
	}
	return []string{"--settings=" + host.Path(e.settings)}
}

// ask runs a command, and reads its JSON. The command's complaint is empty if it exits with 0.
func (e engine) ask(ctx context.Context, limit time.Duration, into any, verb string, args ...string) (complaint string, err error) {
	limited, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	args = append([]string{"node", verb, "--output=json", "--bin=" + host.Path(e.programs)}, args...)
	if e.prefix != "" {
		args = append(args, "--prefix="+e.prefix)
	}
	output, err := e.runner.Run(limited, e.programs+"/lifecyclectl", args...)
	var entry *host.EntryError
	switch {
	case ctx.Err() != nil:
		return "", context.Cause(ctx)
	case errors.As(err, &entry):
		return "", &Failure{Step: verb, Message: err.Error(), Cure: "give the installer's pod hostPID and a privileged container"}
	case errors.Is(err, context.DeadlineExceeded):
		return "", &Failure{Step: verb, Message: fmt.Sprintf("it did not end within %s", limit), Cure: "look at containerd's log on the node"}
	case err != nil:
		return "", &Failure{Step: verb, Message: err.Error()}
	}
	if output.Code != 0 {
		complaint = strings.TrimPrefix(strings.TrimSpace(output.Complaint), "lifecyclectl: ")
		if complaint == "" {
			complaint = fmt.Sprintf("exit status %d", output.Code)
		}
	}
	if err := json.Unmarshal(output.Stdout, into); err != nil {
		if complaint == "" {
			complaint = "its answer is not understood: " + err.Error()
		}
		return "", &Failure{Step: verb, Message: complaint}
	}
	return complaint, nil
}
