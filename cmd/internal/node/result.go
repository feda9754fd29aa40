package node

import (
	"errors"
	"fmt"
	"time"
)

// Options are the flags of the commands.
type Options struct {
	// Prefix is the directory above bin and lib. Empty means that a directory for the programs is chosen, and that the journal
	// is in /var/lib/lifecycle-shim.
	Prefix string
	// Bin is the directory where the programs are now. Empty means the directory of this program.
	Bin string
	// PID, Containerd and Config name the containerd if several run, or none.
	PID                int
	Containerd, Config string
	// RuntimePath asks for a handler of runc's type, CgroupDriver for its driver (the kubelet's, if empty).
	RuntimePath  bool
	CgroupDriver string
	// Restart is how containerd is restarted if it has to be.
	Restart Restart
	// RestartWithin limits how long containerd may take to return. 0 means 2 minutes.
	RestartWithin time.Duration
	// Settings is a file with the contents for /etc/lifecycle-shim/config.toml, or empty.
	Settings string
}

// Restart is a way to restart containerd.
type Restart string

// Ways to restart containerd. RestartTerminate relies on a supervisor that starts it again.
const (
	RestartNone      Restart = "none"
	RestartSystemd   Restart = "systemd"
	RestartTerminate Restart = "terminate"
)

// What a Result says about a restart.
const (
	RestartDone      = "done"
	RestartNeeded    = "needed"
	RestartNotNeeded = "not needed"
)

// Result describes what Install or Uninstall found and did. It is printed as JSON.
type Result struct {
	Layout     Layout     `json:"layout"`
	Containerd Containerd `json:"containerd"`
	// Programs is the directory of the programs.
	Programs string `json:"programs"`
	// Files are those that the installation owns, or has changed.
	Files   []string `json:"files"`
	Changed bool     `json:"changed"`
	Restart string   `json:"restart"`
	Notes   []string `json:"notes,omitempty"`
	Failure *Failure `json:"error,omitempty"`
}

// Containerd is the containerd that was chosen.
type Containerd struct {
	PID     int    `json:"pid"`
	Version string `json:"version"`
	Config  string `json:"config"`
	Address string `json:"address"`
	Unit    string `json:"unit"`
}

// Failure says why something was not done, and what to do.
type Failure struct {
	// Step is one of the Step constants.
	Step    string `json:"step"`
	Message string `json:"message"`
	Cure    string `json:"cure,omitempty"`
}

// Steps of a Failure.
const (
	StepOptions    = "options"
	StepContainerd = "containerd" // to find it, and to ask for its version
	StepPrograms   = "programs"
	StepConfig     = "configuration"
	StepTrust      = "trust"
	StepJournal    = "journal"
	StepWrite      = "write"
	StepVerify     = "verify"
	StepSettings   = "settings"
	StepRestart    = "restart"
	StepInUse      = "in-use"
)

func (f *Failure) Error() string {
	if f.Cure == "" {
		return f.Message
	}
	return f.Message + ": " + f.Cure
}

// maxMessage bounds a message, in bytes: it may have a program's output in it.
const maxMessage = 4 << 10

// fail returns a Failure. A message begins with "cannot", or says what is wrong.
func fail(step, cure, format string, args ...any) *Failure {
	message := fmt.Sprintf(format, args...)
	if len(message) > maxMessage {
		message = message[:maxMessage] + " …"
	}
	return &Failure{Step: step, Message: message, Cure: cure}
}

// asFailure returns the Failure in err, or one of that step.
func asFailure(step string, err error) *Failure {
	var failure *Failure
	if errors.As(err, &failure) {
		return failure
	}
	return fail(step, "", "%s", err)
}
