package harness_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
)

// binDir is where `make servers` puts what the tests run.
func binDir(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../../bin")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// needRoot fails, rather than skips, as the tests are worthless unless they run.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("the integration tests start containerd and containers: run them as root")
	}
}

func forEachServer(t *testing.T, test func(*testing.T, harness.Server)) {
	needRoot(t)
	servers := harness.Servers(binDir(t))
	if len(servers) == 0 {
		t.Fatal("no containerd found: run `make servers`")
	}
	for _, s := range servers {
		t.Run(s.Name, func(t *testing.T) { test(t, s) })
	}
}

func start(t *testing.T, cfg harness.DaemonConfig) *harness.Daemon {
	t.Helper()
	cfg.BinDir = binDir(t)
	d, err := harness.StartDaemon(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return d
}

func TestDaemonStopsAndStartsAgain(t *testing.T) {
	forEachServer(t, func(t *testing.T, s harness.Server) {
		d := start(t, harness.DaemonConfig{Server: s})
		for name, stop := range map[string]func() error{"Terminate": d.Terminate, "Kill": d.Kill} {
			if err := stop(); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if err := d.Start(t.Context()); err != nil {
				t.Fatalf("Start after %s: %v", name, err)
			}
		}
		if err := d.Start(t.Context()); err == nil {
			t.Error("a second Start while the daemon runs was accepted")
		}
		if err := d.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
		if _, err := os.Stat(d.Dir); !os.IsNotExist(err) {
			t.Errorf("%s is still there after Close", d.Dir)
		}
	})
}

func TestDaemonThatCannotStartShowsItsLog(t *testing.T) {
	forEachServer(t, func(t *testing.T, s harness.Server) {
		cfg := harness.DaemonConfig{Server: s, BinDir: binDir(t), ExtraConfig: "[this is no TOML"}
		d, err := harness.StartDaemon(t.Context(), cfg)
		if err == nil {
			_ = d.Close()
			t.Fatal("it started with a broken configuration")
		}
		if !strings.Contains(err.Error(), "toml") {
			t.Errorf("the error does not show what containerd said: %v", err)
		}
	})
}

func TestCRIAndNRIAreOffUnlessAskedFor(t *testing.T) {
	forEachServer(t, func(t *testing.T, s harness.Server) {
		for _, on := range []bool{false, true} {
			d := start(t, harness.DaemonConfig{Server: s, CRI: on, NRI: on && s.Name != "1.6"})
			if got := hasCRI(t, d); got != on {
				t.Errorf("CRI asked for: %v, works: %v\n%s", on, got, d.Log())
			}
			if _, err := os.Stat(d.NRIAddress()); (err == nil) != (on && s.Name != "1.6") {
				t.Errorf("NRI asked for: %v, its socket: %v\n%s", on, err, d.Log())
			}
		}
	})
}

func hasCRI(t *testing.T, d *harness.Daemon) bool {
	t.Helper()
	client, err := d.Client("harness")
	if err != nil {
		t.Fatal(err)
	}
	plugins, err := client.IntrospectionService().Plugins(t.Context(), "id==cri")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range plugins.Plugins {
		if p.InitErr == nil {
			return true
		}
	}
	return false
}
