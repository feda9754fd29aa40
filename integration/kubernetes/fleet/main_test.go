package fleet

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
	"github.com/lifecycle-shim/lifecycle-shim/integration/image"
	"github.com/lifecycle-shim/lifecycle-shim/integration/kubernetes/cluster"
)

// limit bounds every wait. It is long, because it is only reached by a failure.
var limit = harness.Patience(3 * time.Minute)

// nginx is the name under which nodes find the image of the package image.
const nginx = "docker.io/library/nginx:latest"

// shared is the fleet that the tests run on, one after another.
var shared struct {
	sync.Mutex
	*Fleet
	before harness.Snapshot // of what a fleet could change
}

func TestMain(m *testing.M) {
	code := m.Run()
	if shared.Fleet != nil {
		if err := errors.Join(shared.Close(), left(shared.before, shared.Fleet.dir)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// watch looks at what is the whole machine's, and at what carries the name of a fleet.
func watch(dir string) harness.Watch {
	w := harness.Watch{NetNS: true, Sysctls: true}
	if dir != "" {
		w.Dirs, w.CgroupParents = []string{dir}, []string{"/" + filepath.Base(dir)}
	}
	return w
}

// left lists what a fleet has left behind.
func left(before harness.Snapshot, dir string) error {
	leaks, err := watch(dir).Leaks(context.Background(), before)
	parents, _ := filepath.Glob("/sys/fs/cgroup/*/" + filepath.Base(dir))
	if _, err := os.Stat(dir); err == nil {
		leaks = append(leaks, dir)
	}
	errs := []error{err}
	for _, leak := range append(leaks, parents...) {
		errs = append(errs, fmt.Errorf("left behind: %s", leak))
	}
	return errors.Join(errs...)
}

func binDir() string {
	dir, err := filepath.Abs("../../../bin")
	if err != nil {
		panic(err) // no working directory
	}
	return dir
}

// bench is what one test works with.
type bench struct {
	*testing.T
	*Fleet
}

func on(t *testing.T) *bench {
	t.Helper()
	shared.Lock()
	defer shared.Unlock()
	if shared.Fleet == nil {
		ctx, cancel := context.WithTimeout(context.Background(), 2*limit)
		defer cancel()
		begin := time.Now()
		before, err := watch("").TakeSnapshot()
		if err != nil {
			t.Fatal(err)
		}
		f, err := startFleet(ctx)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("the fleet is up after %v", time.Since(begin))
		shared.Fleet, shared.before = f, before
	}
	return &bench{T: t, Fleet: shared.Fleet}
}

func startFleet(ctx context.Context) (*Fleet, error) {
	cluster.Sweep()
	img, err := image.Build(ctx, "../../../.cache", nil)
	if err != nil {
		return nil, err
	}
	archive, err := os.ReadFile(img.Archive)
	if err != nil {
		return nil, err
	}
	f, err := Start(ctx, Config{BinDir: binDir(), Nodes: ThreeNodes})
	if err != nil {
		return nil, err
	}
	if err := f.Registry.PushArchive(nginx, archive); err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

// kubectl must succeed.
func (b *bench) kubectl(args ...string) string {
	b.Helper()
	out, err := b.Kubectl(b.Context(), args...)
	if err != nil {
		b.Fatal(err)
	}
	return out
}

func (b *bench) apply(manifest string) {
	b.Helper()
	if err := b.Apply(b.Context(), manifest); err != nil {
		b.Fatal(err)
	}
}

func (b *bench) poll(what string, done func() bool) {
	b.Helper()
	if err := harness.Poll(b.Context(), limit, what, func() (bool, error) { return done(), nil }); err != nil {
		b.Fatal(err)
	}
}
