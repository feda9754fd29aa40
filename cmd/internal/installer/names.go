package installer

// What the installer writes on its Node object. The chart's RBAC and admission policy allow these names and no others.
const (
	// DefaultReadyLabel is the label of a node that takes pods: ReadyTrue after a check that succeeded, ReadyFalse after a
	// failure. A node that has neither is not installed, or is being changed.
	DefaultReadyLabel = "lifecycle-shim.io/ready"
	ReadyTrue         = "true"
	// ReadyFalse is a value of the label, and not only an annotation, because the API server can select it: counting the
	// failures of 5,000 nodes transfers only these.
	ReadyFalse = "false"

	// InstalledAnnotation is the version that was installed and checked, or Unchecked. It is there from before the first change
	// on the node until the last is undone.
	InstalledAnnotation = "lifecycle-shim.io/installed"
	Unchecked           = "unchecked"
	// ErrorAnnotation is why the last installation or removal failed, and what to do.
	ErrorAnnotation = "lifecycle-shim.io/install-error"
	// UninstallAnnotation on the DaemonSet is the mark that the shim is to be taken off every node.
	UninstallAnnotation = "lifecycle-shim.io/uninstall"
)

// Defaults of flags, which the chart also uses.
const (
	DefaultDaemonSet    = "lifecycle-shim-installer"
	DefaultRuntimeClass = "lifecycle"
)

// Reasons of the Events on the Node.
const (
	ReasonReady           = "LifecycleShimReady"
	ReasonFailed          = "LifecycleShimInstallFailed"
	ReasonStopped         = "LifecycleShimInstallStopped"
	ReasonRestartNeeded   = "LifecycleShimRestartNeeded"
	ReasonUninstallWaits  = "LifecycleShimUninstallWaits"
	ReasonUninstalled     = "LifecycleShimUninstalled"
	ReasonUninstallFailed = "LifecycleShimUninstallFailed"
)
