package webhook

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	coordination "k8s.io/api/coordination/v1"
	core "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
	"github.com/lifecycle-shim/lifecycle-shim/integration/kubernetes/cluster"
)

const (
	// namespace of the webhook, in the manifests.
	namespace  = "lifecycle-shim"
	secretPath = "/api/v1/namespaces/" + namespace + "/secrets/lifecycle-shim-webhook"
)

// replicated is an API server with two replicas of lifecycle-webhook, as
// deploy/kubernetes/cluster-webhook sets them up. They are processes on the loopback, so a
// URL takes the place of each Service.
type replicated struct {
	*testing.T
	*cluster.API
	replicas [2]*replica
	client   *http.Client // an administrator's
	server   string       // the API server's URL
	token    string
}

// replica is one process. Its flags are those of the StatefulSet.
type replica struct {
	harness.Program
	address, health string
}

// newReplicated starts everything; flags are further ones for the replicas. It does not wait
// for certificates.
func newReplicated(t *testing.T, apiFlags []string, flags ...string) *replicated {
	t.Helper()
	api, err := cluster.StartAPI(t.Context(), binDir(), apiFlags...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := api.Close(); err != nil {
			t.Error(err)
		}
	})
	r := &replicated{T: t, API: api}
	r.connect()
	for i := range r.replicas {
		r.replicas[i] = &replica{address: freeAddress(t), health: freeAddress(t)}
	}
	service := r.startService()
	if _, err := r.Kubectl(t.Context(), "create", "namespace", namespace); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Kubectl(t.Context(), "apply", "-f", deployFile("kubernetes/runtimeclass.yaml")); err != nil {
		t.Fatal(err)
	}
	for _, object := range r.manifest() {
		switch object["kind"] {
		case "Secret", "Lease", "MutatingWebhookConfiguration", "ValidatingWebhookConfiguration":
			r.apply(r.onLoopback(object, service))
		case "StatefulSet":
			for i := range r.replicas {
				r.prepare(i, object, flags)
			}
		}
	}
	for _, replica := range r.replicas {
		r.startReplica(replica)
		t.Cleanup(func() {
			if err := replica.Stop(syscall.SIGKILL); err != nil {
				t.Error(err)
			}
			if t.Failed() {
				t.Logf("%s:\n%s", replica.Name, replica.Log())
			}
		})
	}
	return r
}

func (r *replicated) startReplica(replica *replica) {
	r.Helper()
	if err := replica.Start(); err != nil {
		r.Fatal(err)
	}
}

// manifest returns the objects of deploy/kubernetes/cluster-webhook.
func (r *replicated) manifest() []map[string]any {
	r.Helper()
	text, err := os.ReadFile(deployFile("kubernetes/cluster-webhook/webhook.yaml"))
	if err != nil {
		r.Fatal(err)
	}
	var objects []map[string]any
	for _, document := range strings.Split(string(text), "\n---\n") {
		var object map[string]any
		if err := yaml.Unmarshal([]byte(document), &object); err != nil {
			r.Fatal(err)
		}
		objects = append(objects, object)
	}
	return objects
}

// onLoopback puts URLs into a configuration in the place of Services.
func (r *replicated) onLoopback(object map[string]any, service string) map[string]any {
	r.Helper()
	entries, _ := object["webhooks"].([]any)
	for _, entry := range entries {
		config := entry.(map[string]any)["clientConfig"].(map[string]any)
		of := config["service"].(map[string]any)
		address := service
		for i, replica := range r.replicas {
			if of["name"] == fmt.Sprintf("lifecycle-shim-webhook-%d", i) {
				address = replica.address
			}
		}
		delete(config, "service")
		config["url"] = fmt.Sprintf("https://%s%s", address, of["path"])
	}
	return object
}

func (r *replicated) apply(object map[string]any) {
	r.Helper()
	text, err := yaml.Marshal(object)
	if err == nil {
		err = r.Apply(r.Context(), string(text))
	}
	if err != nil {
		r.Fatal(err)
	}
}

// prepare makes the command of a replica from the StatefulSet's.
func (r *replicated) prepare(i int, set map[string]any, flags []string) {
	r.Helper()
	text, err := yaml.Marshal(set["spec"].(map[string]any)["template"])
	if err != nil {
		r.Fatal(err)
	}
	var template core.PodTemplateSpec
	if err := yaml.Unmarshal(text, &template); err != nil {
		r.Fatal(err)
	}
	container := template.Spec.Containers[0]
	name := fmt.Sprintf("lifecycle-shim-webhook-%d", i)
	command := []string{filepath.Join(binDir(), filepath.Base(container.Command[0]))}
	for _, arg := range container.Args {
		command = append(command, strings.NewReplacer("$(POD_NAMESPACE)", namespace, "$(POD_NAME)", name).Replace(arg))
	}
	replica := r.replicas[i]
	command = append(command, "--listen="+replica.address, "--health-listen="+replica.health, "--service-names=127.0.0.1", "--kubeconfig="+r.Kubeconfig)
	replica.Program = harness.Program{Name: name, Args: append(command, flags...), Env: []string{"PATH=/nowhere"}, LogFile: filepath.Join(r.TempDir(), name+".log")}
}

// startService starts what a Service is: it connects to a replica that accepts connections.
func (r *replicated) startService() string {
	r.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() { listener.Close() })
	go func() {
		for {
			from, err := listener.Accept()
			if err != nil {
				return // closed
			}
			go r.forward(from)
		}
	}()
	return listener.Addr().String()
}

func (r *replicated) forward(from net.Conn) {
	defer from.Close()
	for _, replica := range r.replicas {
		to, err := net.Dial("tcp", replica.address)
		if err != nil {
			continue
		}
		go func() {
			defer to.Close()
			_, _ = io.Copy(to, from) // ends with either connection
		}()
		_, _ = io.Copy(from, to)
		return
	}
}

// connect makes a client from the kubeconfig.
func (r *replicated) connect() {
	r.Helper()
	text, err := os.ReadFile(r.Kubeconfig)
	if err != nil {
		r.Fatal(err)
	}
	var config struct {
		Clusters []struct {
			Cluster struct {
				Server    string `json:"server"`
				Authority string `json:"certificate-authority"`
			} `json:"cluster"`
		} `json:"clusters"`
		Users []struct {
			User struct {
				Token string `json:"token"`
			} `json:"user"`
		} `json:"users"`
	}
	if err := yaml.Unmarshal(text, &config); err != nil {
		r.Fatal(err)
	}
	authority, err := os.ReadFile(config.Clusters[0].Cluster.Authority)
	if err != nil {
		r.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(authority)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, MaxIdleConnsPerHost: atOnce}
	r.Cleanup(transport.CloseIdleConnections)
	r.client, r.server, r.token = &http.Client{Transport: transport, Timeout: limit}, config.Clusters[0].Cluster.Server, config.Users[0].User.Token
}

func (r *replicated) ask(ctx context.Context, method, path, media string, body io.Reader) (int, []byte, error) {
	request, err := http.NewRequestWithContext(ctx, method, r.server+path, body)
	if err != nil {
		return 0, nil, err
	}
	request.Header.Set("Authorization", "Bearer "+r.token)
	request.Header.Set("Content-Type", media)
	response, err := r.client.Do(request)
	if err != nil {
		return 0, nil, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	return response.StatusCode, text, err
}

// ready is what a probe of the kubelet gets from a replica: 0 if it does not answer.
func (p *replica) ready(ctx context.Context) int {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.health+"/readyz", nil)
	if err != nil {
		return 0
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: limit}
	response, err := client.Do(request)
	if err != nil {
		return 0
	}
	defer response.Body.Close()
	return response.StatusCode
}

func (r *replicated) poll(what string, done func() bool) {
	r.Helper()
	err := harness.Poll(r.Context(), limit, what, func() (bool, error) {
		for _, replica := range r.replicas {
			if err := replica.Ended(); err != nil {
				return false, err
			}
		}
		return done(), nil
	})
	if err != nil {
		r.Fatal(err)
	}
}

// wantReady waits until the replicas are, and the API server moves handlers through each.
func (r *replicated) wantReady() {
	r.Helper()
	for _, replica := range r.replicas {
		r.poll(replica.Name+" to be ready", func() bool { return replica.ready(r.Context()) == http.StatusOK })
	}
	r.poll("the API server to ask them", func() bool {
		before := r.failOpen()
		return r.create("warm", "?dryRun=All") == nil && r.failOpen() == before
	})
}

// leader is the replica that keeps the certificates, nil if there is none.
func (r *replicated) leader() *replica {
	var lease coordination.Lease
	if err := r.Get(r.Context(), "/apis/coordination.k8s.io/v1/namespaces/"+namespace+"/leases/lifecycle-shim-webhook", &lease); err != nil || lease.Spec.HolderIdentity == nil {
		return nil
	}
	for _, replica := range r.replicas {
		if replica.Name == *lease.Spec.HolderIdentity {
			return replica
		}
	}
	return nil
}

// secret is empty if there is none.
func (r *replicated) secret() core.Secret {
	r.Helper()
	var secret core.Secret
	if err := r.Get(r.Context(), secretPath, &secret); err != nil && !errors.Is(err, os.ErrNotExist) {
		r.Fatal(err)
	}
	return secret
}

// failOpen is how many calls of the mutating webhooks have failed, as the API server counts
// them.
func (r *replicated) failOpen() int {
	r.Helper()
	_, text, err := r.ask(r.Context(), http.MethodGet, "/metrics", "", nil)
	if err != nil {
		r.Fatal(err)
	}
	total := 0
	for _, line := range strings.Split(string(text), "\n") {
		if strings.HasPrefix(line, "apiserver_admission_webhook_fail_open_count{") {
			var count float64
			if _, err := fmt.Sscan(line[strings.LastIndexByte(line, ' ')+1:], &count); err != nil {
				r.Fatal(err)
			}
			total += int(count)
		}
	}
	return total
}

// create makes a pod of the class, with handlers, and returns an error unless it is admitted
// with its handlers moved.
func (r *replicated) create(name, query string) error {
	manifest := fmt.Sprintf(`{"apiVersion":"v1","kind":"Pod","metadata":{"name":%q},"spec":{"runtimeClassName":"lifecycle","containers":[{"name":"app","image":"x",`+
		`"lifecycle":{"postStart":{"exec":{"command":["true"]}},"preStop":{"sleep":{"seconds":1}}}}]}}`, name)
	status, text, err := r.ask(r.Context(), http.MethodPost, "/api/v1/namespaces/default/pods"+query, "application/json", strings.NewReader(manifest))
	if err != nil {
		return err
	}
	if status != http.StatusCreated {
		return fmt.Errorf("status %d: %s", status, text)
	}
	var got core.Pod
	if err := json.Unmarshal(text, &got); err != nil {
		return err
	}
	if got.Spec.Containers[0].Lifecycle != nil || got.Annotations["app.lifecycle-shim.io/lifecycle"] == "" {
		return fmt.Errorf("admitted unmoved: %s", text)
	}
	return nil
}
