package installer

// String is for logs and tests.
func (s Step) String() string {
	if s < 0 || int(s) >= len(stepNames) {
		return "unknown step"
	}
	return stepNames[s]
}

var stepNames = [...]string{
	Rest: "rest", Record: "record", Backoff: "backoff", Stop: "stop", TakeTurn: "take turn", Note: "note", Refresh: "refresh", Begin: "begin",
	Install: "install", AwaitRestart: "await restart", Check: "check", Label: "label",
	Unlabel: "unlabel", AwaitPods: "await pods", Settle: "settle", Uninstall: "uninstall", Clear: "clear", Done: "done",
}
