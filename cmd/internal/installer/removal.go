package installer

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/containerd/log"
	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"

	"github.com/lifecycle-shim/lifecycle-shim/internal/shorten"
)

const (
	// mostNodes are explained one by one.
	mostNodes = 10
	// mostReady bounds how many nodes are asked whether they are Ready at the end of the time.
	mostReady = 200
	// metadataPage of nodes: some kB each.
	metadataPage = 200
	// confirmAfter is between the two looks that have to find no node: an installer that had read the DaemonSet before the mark
	// may still write on its Node.
	confirmAfter = 5 * time.Second
)

// Removal takes the shim off every node of a cluster, as a Job: it sets the mark, and waits for the installers.
//
// An installer writes the annotation on its Node, then reads the mark, and only then changes the node. Removal sets the mark,
// and then reads the annotations. So if an installer does not see the mark, Removal sees the annotation, and waits.
type Removal struct {
	cluster   *cluster
	namespace string // of the DaemonSet
	nodes     metadata.Getter
	timeout   time.Duration
	said      string
	at        time.Time
}

// NewRemoval uses of the configuration what concerns the API server.
func NewRemoval(config Config, timeout time.Duration, server *rest.Config) (*Removal, error) {
	c, err := newClients(server)
	if err != nil {
		return nil, fmt.Errorf("cannot connect to the API server: %w", err)
	}
	m, err := metadata.NewForConfig(server)
	if err != nil {
		return nil, fmt.Errorf("cannot connect to the API server: %w", err)
	}
	i := newInstaller(config, c, nil, nil, nil)
	return &Removal{cluster: i.cluster, namespace: config.Namespace, nodes: m.Resource(core.SchemeGroupVersion.WithResource("nodes")), timeout: timeout}, nil
}

// Run returns nil if nothing of ours is on any node, or only on nodes that are not Ready after the time.
func (r *Removal) Run(ctx context.Context) error {
	limited, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	backoff := serverBackoff()
	marked, clean := false, 0
	var left []string
	for {
		pause, err := time.Duration(0), error(nil)
		if !marked {
			err = r.mark(limited)
			marked = err == nil
		}
		if err == nil {
			left, pause, err = r.look(limited)
		}
		var missing *noInstaller
		switch {
		case errors.As(err, &missing):
			return err
		case err != nil:
			pause = backoff.Step()
			log.G(ctx).WithError(err).Warn("cannot look at the nodes; it is tried again")
		case len(left) > 0:
			clean = 0
		case clean == 1:
			log.G(ctx).Info("lifecycle-shim is removed from every node")
			return nil
		default:
			clean, pause = 1, confirmAfter
		}
		sleep(limited, pause)
		switch {
		case ctx.Err() != nil:
			return errors.New("cannot wait for the nodes: interrupted; the installers continue")
		case limited.Err() != nil:
			return r.end(ctx, marked, left)
		}
	}
}

// noInstaller: there is no DaemonSet, and nodes have the shim.
type noInstaller struct{ text string }

func (e *noInstaller) Error() string { return e.text }

func (r *Removal) mark(ctx context.Context) error {
	patch := fmt.Sprintf(`{"metadata":{"annotations":{%q:"true"}}}`, UninstallAnnotation)
	_, err := r.cluster.daemonSets.Patch(ctx, r.cluster.daemonSet, types.MergePatchType, []byte(patch), meta.PatchOptions{})
	if err == nil || !apierrors.IsNotFound(err) {
		return err
	}
	left, err := r.left(ctx)
	if err == nil && len(left) > 0 {
		return &noInstaller{fmt.Sprintf("cannot remove lifecycle-shim from %s: there is no DaemonSet %s, whose pods would do it; "+
			"install the chart again, or run `lifecyclectl node uninstall` on these nodes", someOf(left), r.cluster.daemonSet)}
	}
	return err
}

// left returns the names of the nodes that have something of ours.
func (r *Removal) left(ctx context.Context) ([]string, error) {
	var names []string
	options := meta.ListOptions{Limit: metadataPage}
	for {
		page, err := r.nodes.List(ctx, options)
		if err != nil {
			return nil, err
		}
		for _, node := range page.Items {
			_, installed := node.Annotations[InstalledAnnotation]
			_, failed := node.Annotations[ErrorAnnotation]
			if _, labelled := node.Labels[r.cluster.keys.readyLabel]; installed || failed || labelled {
				names = append(names, node.Name)
			}
		}
		if options.Continue = page.Continue; options.Continue == "" {
			return names, nil
		}
	}
}

// look reports what is waited for, if it has changed or a minute is over.
func (r *Removal) look(ctx context.Context) (left []string, pause time.Duration, err error) {
	if left, err = r.left(ctx); err != nil {
		return nil, 0, err
	}
	pause = wait.Jitter(pace(len(left)), 0.2)
	if len(left) == 0 {
		return nil, pause, nil
	}
	var lines []string
	for _, name := range left[:min(len(left), mostNodes)] {
		why, err := r.explain(ctx, name)
		if err != nil {
			return nil, 0, err
		}
		lines = append(lines, name+": "+why)
	}
	if more := len(left) - len(lines); more > 0 {
		lines = append(lines, fmt.Sprintf("and %d more nodes", more))
	}
	if text := strings.Join(lines, "; "); text != r.said || time.Since(r.at) > time.Minute {
		r.said, r.at = text, time.Now()
		log.G(ctx).WithField("nodes", len(left)).Info("waiting for " + text)
	}
	return left, pause, nil
}

// explain says what a node waits for.
func (r *Removal) explain(ctx context.Context, name string) (string, error) {
	node, err := r.cluster.node(ctx, name)
	if apierrors.IsNotFound(err) {
		return "deleted", nil
	}
	if err != nil {
		return "", err
	}
	if !isReady(node) {
		return "it is not Ready", nil
	}
	if failure := node.Annotations[ErrorAnnotation]; failure != "" {
		return "it failed: " + shorten.Middle(shorten.OneLine(failure), maxCure), nil
	}
	pods, err := r.cluster.pods(ctx, name)
	if err != nil {
		return "", err
	}
	if pods.Count > 0 {
		return podsOf(r.cluster.class, pods), nil
	}
	return "its installer is at work, or waits for its turn", nil
}

func isReady(node *core.Node) bool {
	for _, condition := range node.Status.Conditions {
		if condition.Type == core.NodeReady {
			return condition.Status == core.ConditionTrue
		}
	}
	return false
}

// end judges what is left after the time.
func (r *Removal) end(ctx context.Context, marked bool, left []string) error {
	if !marked {
		return fmt.Errorf("cannot remove lifecycle-shim: the API server did not accept the mark within %s", r.timeout)
	}
	for _, name := range left[:min(len(left), mostReady)] {
		node, err := r.cluster.node(ctx, name)
		if err == nil && isReady(node) || err != nil && !apierrors.IsNotFound(err) || len(left) > mostReady {
			return fmt.Errorf("cannot remove lifecycle-shim from %s within %s: %s. The installers continue; "+
				"wait longer, or take it back: kubectl -n %s annotate daemonset %s %s-, and with Helm then helm rollback to the release's last revision",
				someOf(left), r.timeout, r.said, r.namespace, r.cluster.daemonSet, UninstallAnnotation)
		}
	}
	if len(left) > 0 {
		log.G(ctx).Warnf("cannot remove lifecycle-shim from %s: they are not Ready or deleted; run `lifecyclectl node uninstall` on them if they return", someOf(left))
	}
	return nil
}

func someOf(nodes []string) Names {
	var names Names
	for _, node := range nodes {
		names.Add(node)
	}
	return names
}
