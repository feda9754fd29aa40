package installer

// Step is what the installer does next.
type Step int

// The steps of an installation, in their usual order, then those of an uninstallation.
const (
	// Rest: the node is as it should be. The turn is given back.
	Rest Step = iota
	// Record puts a failure on the Node, and then gives the turn back.
	Record
	// Backoff waits until the next try after a failure.
	Backoff
	// Stop waits for other nodes, on which the installation has failed. The turn is given back.
	Stop
	// TakeTurn tries to get a turn.
	TakeTurn
	// Note says on the Node that it will have files of ours that are not checked yet. The label stays.
	Note
	// Refresh installs without a restart of containerd, while the node takes pods: an upgrade usually needs none.
	Refresh
	// Begin takes the label off, and does what Note does.
	Begin
	// Install also restarts containerd if it must.
	Install
	// AwaitRestart: containerd has to be restarted, and the operator wants to do that. The turn is given back.
	AwaitRestart
	// Check runs the node's checks and a real container.
	Check
	// Label makes the node take pods.
	Label

	// Unlabel keeps further pods off a node that is about to lose the shim.
	Unlabel
	// AwaitPods: pods of the class are on the node. The turn is given back.
	AwaitPods
	// Settle waits for pods that a scheduler has bound at the time of Unlabel.
	Settle
	// Uninstall takes the shim off.
	Uninstall
	// Clear removes the annotations, and everything else that the installer has written on the Node.
	Clear
	// Done: nothing of ours is on the node. The turn is given back.
	Done
)

// View is what is known before a step.
type View struct {
	// Uninstall is the mark on the DaemonSet.
	Uninstall bool
	Node      NodeView
	Status    Status
	// Turn is held, for long enough to begin a step.
	Turn bool
	// Failed is a failure that is not yet on the Node.
	Failed bool
	// Early: it is before the time of the next try, after a failure or a label that others may take off at once.
	Early bool
	// Blocked: as many other nodes have failed as stop the installation.
	Blocked bool
	// ByHand: containerd is restarted by the operator, never by the installer.
	ByHand bool
	// Pods of the class are on the node. It is known only if Uninstall is set.
	Pods bool
	// Attempt is what has been done since the turn was taken.
	Attempt Attempt
}

// NodeView is what counts of a Node object.
type NodeView struct {
	Ready     string // the label's value; empty: it has none
	Installed bool   // the annotation is there
	Checked   bool   // and it names the version that was checked after the last change
	Error     bool   // the annotation is there
	Tainted   bool   // the startup taint is on it
}

// Status is the answer of `lifecyclectl node status`.
type Status struct {
	// Installed: files of any build are on the node.
	Installed bool `json:"installed"`
	// Current: they are those of this build and these settings, and containerd has loaded the runtime handler.
	Current bool `json:"current"`
	// Reason is why it is not current, for people.
	Reason string `json:"reason"`
}

// Attempt is what has been done since the turn was taken; for Settled: since Unlabel.
type Attempt struct {
	Begun         bool // a change has begun: it is ended even if another node fails meanwhile
	RestartNeeded bool // Refresh or Install says so
	Installed     bool // nothing is left to install
	Checked       bool
	Settled       bool
	Uninstalled   bool
}

// Next decides the next step.
func Next(v View) Step {
	switch {
	case v.Failed:
		return Record
	case !v.Uninstall && v.settled():
		return Rest
	case v.Early:
		return Backoff
	case v.Uninstall:
		return nextUninstall(v)
	case v.stopped():
		return Stop
	case !v.Turn:
		return TakeTurn
	}
	return nextChange(v)
}

// settled nodes need nothing.
func (v View) settled() bool {
	return v.Status.Current && v.Node == NodeView{Ready: ReadyTrue, Installed: true, Checked: true}
}

// stopped nodes must not begin. A node that has failed itself tries again: it is what the others wait for.
func (v View) stopped() bool {
	return v.Blocked && !v.Attempt.Begun && v.Node.Ready != ReadyFalse
}

// nextChange decides for a node that needs something, with a turn.
func nextChange(v View) Step {
	labelled := v.Node.Ready == ReadyTrue
	harmless := labelled && v.Node.Installed && v.Status.Installed && !v.Attempt.RestartNeeded
	switch {
	case v.Attempt.Installed && v.Attempt.Checked:
		return Label
	case v.Attempt.Installed:
		return Check
	case harmless && v.Node.Checked:
		return Note // or an installer that is killed now would find a node that needs no check
	case harmless:
		return Refresh
	case labelled || !v.Node.Installed || v.Node.Checked:
		return Begin
	case v.Attempt.RestartNeeded && v.ByHand:
		return AwaitRestart
	default:
		return Install
	}
}

func nextUninstall(v View) Step {
	installed := v.Node.Installed || v.Status.Installed
	switch {
	case !installed && v.Node.Ready == "" && !v.Node.Error:
		return Done
	case v.Node.Ready != "":
		return Unlabel
	case v.Pods:
		return AwaitPods
	case installed && !v.Attempt.Settled:
		return Settle
	case !v.Turn:
		return TakeTurn
	case installed && !v.Attempt.Uninstalled:
		return Uninstall
	default:
		return Clear
	}
}
