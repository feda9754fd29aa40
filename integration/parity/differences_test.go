package parity

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"sync"
)

// difference is one that is known, and why it is there. It fails the suite when it is not there any more.
type difference struct {
	scenario string
	// targets, ways and sides that it shows on; none: all.
	targets []string
	ways    []way
	sides   []string
	// when says on which machines it shows; nil: all.
	when func() bool
	// stock and ours are the lines that only the one or only the other has.
	stock, ours string
	// what and reason are for the document.
	what, reason string
}

func (d difference) shows(scenario string, pass pass, side side) bool {
	among := func(list []string, name string) bool { return len(list) == 0 || slices.Contains(list, name) }
	return d.scenario == scenario && (d.when == nil || d.when()) && among(d.targets, pass.target.name) && among(d.sides, side.name) &&
		(len(d.ways) == 0 || slices.Contains(d.ways, pass.way))
}

// explains says whether a line is one of those that differ.
func (d difference) explains(c change) bool {
	pattern := d.ours
	if c.stock {
		pattern = d.stock
	}
	return pattern != "" && regexp.MustCompile("^(?:"+pattern+")$").MatchString(c.line)
}

// used notes, for the test of a pass, which differences have shown.
type used struct {
	mu   sync.Mutex
	seen map[string]bool
	ran  map[string]bool
}

func newUsed() *used { return &used{seen: map[string]bool{}, ran: map[string]bool{}} }

func key(i int, side side) string { return fmt.Sprint(i, " ", side.name) }

// unexplained are the changes that no known difference explains.
func (u *used) unexplained(scenario string, pass pass, side side, changes []change) []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	var rest []string
	u.ran[scenario+" "+side.name] = true
	for _, c := range changes {
		explained := false
		for i, d := range differences {
			if d.shows(scenario, pass, side) && d.explains(c) {
				explained, u.seen[key(i, side)] = true, true
			}
		}
		if !explained {
			rest = append(rest, c.String())
		}
	}
	return rest
}

// stale are the known differences that should have shown in a pass and have not.
func (u *used) stale(pass pass) []string {
	var stale []string
	for _, side := range pass.sides {
		for i, d := range differences {
			if u.ran[d.scenario+" "+side.name] && d.shows(d.scenario, pass, side) && !u.seen[key(i, side)] {
				stale = append(stale, fmt.Sprintf("%s, %s: %s", side.name, d.scenario, d.what))
			}
		}
	}
	return stale
}

// change is a line that only one of two reports has.
type change struct {
	stock  bool
	number int
	line   string
}

func (c change) String() string {
	sign := "ours: "
	if c.stock {
		sign = "stock:"
	}
	return fmt.Sprintf("line %2d, %s %s", c.number, sign, c.line)
}

// diff lists what only want or only got has, in order: by the longest common subsequence.
func diff(want, got []string) (changes []change) {
	table := make([][]int, len(want)+1)
	for i := range table {
		table[i] = make([]int, len(got)+1)
	}
	for i := len(want) - 1; i >= 0; i-- {
		for j := len(got) - 1; j >= 0; j-- {
			if want[i] == got[j] {
				table[i][j] = table[i+1][j+1] + 1
			} else {
				table[i][j] = max(table[i+1][j], table[i][j+1])
			}
		}
	}
	i, j := 0, 0
	for i < len(want) || j < len(got) {
		switch {
		case i < len(want) && j < len(got) && want[i] == got[j]:
			i++
			j++
		case j == len(got) || i < len(want) && table[i+1][j] >= table[i][j+1]:
			changes = append(changes, change{stock: true, number: i + 1, line: want[i]})
			i++
		default:
			changes = append(changes, change{number: j + 1, line: got[j]})
			j++
		}
	}
	return changes
}

func withoutSystemd() bool {
	_, err := os.Stat("/run/systemd/system")
	return err != nil
}

// differences are all that there are between this project's shim and the stock shim.
var differences = []difference{
	{
		scenario: "no options, systemd cgroups", when: withoutSystemd,
		stock: ".*", ours: `Create .* Unknown ".*systemd.*"`,
		what: "A cgroups path of systemd's form without any options: the stock shim makes a cgroup of that very name, ours takes systemd's driver, " +
			"which fails where there is no systemd.",
		reason: "docker and nerdctl send such paths on machines with systemd, but options to io.containerd.runc.v2 only. There, the literal name " +
			"would put the containers outside their slices and limits ([docs/spec.md](../../docs/spec.md#wrap)).",
	},
	{
		scenario: "exec without a spec",
		stock:    `.*`, ours: `Exec .* Internal "internal error: .*nil pointer dereference"|State .*status=RUNNING}|  /tasks/.*`,
		what:   "The stock shim panics, and all containers of its pod end with it. Ours answers with an internal error, and continues.",
		reason: "[docs/spec.md](../../docs/spec.md#panic): a panic in one request never ends the shim.",
	},
	{
		scenario: "create twice at the shim", sides: []string{handlers.name},
		stock: `Create .* Unknown "OCI runtime create failed: .*"`, ours: `Create .* AlreadyExists "task .* already exists"`,
		what:   "A second Create of a running container with handlers is refused before the OCI runtime is asked.",
		reason: "The first container's state must not be lost to one that never was. containerd itself never sends it.",
	},
	{
		scenario: "pids", sides: []string{handlers.name},
		stock: `Pids (\S+): {processes=\[{pid=<\S+>}\]}`, ours: `Pids \S+: {processes=\[{pid=<another>} {pid=<\S+>}\]}`,
		what:   "Pids of a created container with a postStart names a second process: its handler's, which waits for the start.",
		reason: "What is done before the start is not waited for after it: a postStart takes a quarter of the time (docs/measurements.md).",
	},
	{
		scenario: "options of another type",
		stock:    `Create \S+generic: .*type with url runtimeoptions.v1.Options: not found"`,
		ours:     `Create \S+generic: InvalidArgument "failed to create shim task: runtime options: .*unknown setting \\"Nonsense\\".*"`,
		what:     "Generic options, in TOML: the stock shim does not know the type, ours reads them, and names what it does not know.",
		reason:   "They are how CRI, nerdctl and docker configure a separate runtime type ([docs/spec.md](../../docs/spec.md#options)).",
	},
	{
		scenario: "options of another type",
		stock:    `.*`, ours: `Create \S+(empty|wrong): InvalidArgument "failed to create shim task: runtime options: type .* is not known; .*"`,
		what: "Options of an unknown type: the stock shim ignores an empty message, and panics at another one. " +
			"Ours refuses both in words.",
		reason: "[docs/spec.md](../../docs/spec.md#bad-input): bad input gets a clear error.",
	},
	{
		scenario: "exec without sense", targets: old,
		ours:   `  /tasks/exit .* id="e" .*`,
		what:   "A second Start of a running exec: TaskExit of the exec is published twice, by ours and by the stock shims of 1.7 and 2.4.",
		reason: "The stock shim compared with is 1.6's. The fault is containerd's, in the task service of which ours is made.",
	},
	{
		scenario: "wrong streams", targets: old,
		stock: `Create \S+logger: .*1 error occurred:.*`, ours: `Create \S+logger: .* failed to start binary process: .*`,
		what: "Other words for a missing logger, with the same code.", reason: "The stock shim compared with is 1.6's; 1.7's and 2.4's say it as ours does.",
	},
	{
		scenario: "exec in an exited container", targets: old,
		stock: `Start \S+before: Unknown "OCI runtime exec failed: .*`, ours: `Start \S+before: FailedPrecondition ".* init process is not running.*"`,
		what:   "Start of an exec in a container that has exited is FailedPrecondition, not Unknown.",
		reason: "The stock shim compared with is 1.6's; 1.7's and 2.4's answer as ours does.",
	},
	{
		scenario: "-info", ways: []way{byBinary}, stock: `stdout: version=.*`, ours: versionLines,
		what: "Name and version are ours; the revision says which containerd's task service it is.", reason: "It is another program. All else, runc's features document among it, is the same.",
	},
	{scenario: "-info for runc", ways: []way{byBinary}, stock: `stdout: version=.*`, ours: versionLines, what: "The same.", reason: "The same."},
	{scenario: "-info for crun", ways: []way{byBinary}, stock: `stdout: version=.*`, ours: versionLines, what: "The same.", reason: "The same."},
	{
		scenario: "-info with noise", ways: []way{byBinary},
		stock: `stderr: .*failed to read runtime options .*: proto:.cannot parse invalid wire-format data`, ours: `stderr: .*runtime options: proto:.cannot parse invalid wire-format data`,
		what: "Other words for the same error, with the same status.", reason: "Options come in more forms than runc's own.",
	},
	{
		scenario: "-v", ways: []way{byBinary}, stock: `stdout: .*`, ours: `stdout: SHIM \S+`,
		what: "One line with our name and version.", reason: "No client reads it.",
	},
	{
		scenario: "start without a namespace", ways: []way{byBinary},
		stock: `stderr: .*namespace cannot be empty`, ours: `stderr: .*start needs -namespace and -id.*`,
		what: "Other words for the same error, with the same status.", reason: "The start action is our own (docs/understand/decisions.md).",
	},
}

// old are the targets whose stock shim is older than the task service of which ours is made, and differs.
var old = []string{"1.6-runc"}

const versionLines = `stdout: (version=.*|2\.\S*|version="\S+)`
