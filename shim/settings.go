package shim

import (
	"encoding/json"
	"fmt"
	"io"
)

// actionSettings is the argument that asks for the node's settings: `lifecyclectl doctor` asks the very binary that
// will read them.
const actionSettings = "settings"

// showSettings writes the node's settings as JSON, or says why they cannot be used. It returns the exit status.
func showSettings(path string, out, errOut io.Writer) int {
	read, err := (&runtimeOptions{}).settings(path)
	if err == nil {
		err = json.NewEncoder(out).Encode(map[string]any{
			"DefaultPostStartTimeout": read.postStartTimeout.String(), "DefaultGracePeriod": read.gracePeriod.String(),
			"OutputLimit": read.outputLimit, "MetricsFile": read.metricsFile, "LogOutput": read.logOutput,
		})
	}
	if err != nil {
		fmt.Fprintln(errOut, err)
		return 1
	}
	return 0
}
