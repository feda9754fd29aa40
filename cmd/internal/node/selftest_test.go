package node

import (
	"strings"
	"testing"
)

func TestJudgeStages(t *testing.T) {
	for text, want := range map[string]string{
		"preStart started postStart preStop stopped onExit": "",
		"preStart postStart started preStop stopped onExit": "", // it runs beside the process
		"started preStart postStart preStop stopped onExit": "started ran before preStart",
		"preStart started postStart stopped preStop onExit": "stopped ran before preStop",
		"preStart started postStart preStop onExit stopped": "onExit ran before stopped",
		"preStart started preStop postStart stopped onExit": "preStop ran before postStart",
		"preStart started postStart preStop stopped":        "onExit did not run",
		"started stopped": "preStart did not run",
		"":                "started did not run",
		"preStart started postStart preStop preStop stopped onExit": "ran twice",
	} {
		err := judgeStages(strings.Fields(text), true)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
	if err := judgeStages([]string{"started", "stopped"}, false); err != nil {
		t.Error(err)
	}
	if err := judgeStages([]string{"started"}, false); err == nil {
		t.Error("a process that was not stopped is accepted")
	}
}

func TestActionOf(t *testing.T) {
	for _, c := range []struct {
		allowed []string
		want    string
	}{{nil, "exec"}, {[]string{"sleep", "exec"}, "exec"}, {[]string{"httpGet", "sleep"}, "sleep"}, {[]string{"httpGet"}, ""}, {[]string{}, ""}} {
		if got := actionOf(c.allowed); got != c.want {
			t.Errorf("%q: %q, want %q", c.allowed, got, c.want)
		}
	}
}
