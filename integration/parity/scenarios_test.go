package parity

import "slices"

// scenarios are all of them, in the order of the document.
var scenarios = slices.Concat(lifeScenarios, signalScenarios, streamScenarios, execScenarios, resourceScenarios, checkpointScenarios, namespaceScenarios, podScenarios, faultScenarios)

// runcOnly is where CRIU is known to work.
var runcOnly = []string{"2.4-runc", "1.7-runc", "1.6-runc"}

// Programs for a container's process. Each makes the file ready when it is.
var (
	// sleeper ignores every signal it can.
	sleeper = []string{"/bin/sh", "-c", "trap '' TERM; : > /ready; sleep 1000 & while :; do wait; done"}
	// obedient says which signal it has got, and ends with its own status.
	obedient = []string{"/bin/sh", "-c", `trap 'echo TERM >> /signals; exit 7' TERM; trap 'echo HUP >> /signals' HUP; trap 'echo USR1 >> /signals' USR1; : > /ready; sleep 1000 & while :; do wait; done`}
)

func exits(status string) []string { return []string{"/bin/sh", "-c", "exit " + status} }
