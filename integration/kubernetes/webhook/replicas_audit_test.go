package webhook

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	rbac "k8s.io/api/rbac/v1"
	"sigs.k8s.io/yaml"
)

// servable: these are an authority and a certificate that it signed.
func servable(data map[string][]byte) bool {
	pair, err := tls.X509KeyPair(data["tls.crt"], data["tls.key"])
	if err != nil || len(data["next.key"]) > 0 {
		return false
	}
	block, _ := pem.Decode(data["ca.key"])
	if block == nil {
		return false
	}
	if _, err := x509.ParsePKCS8PrivateKey(block.Bytes); err != nil {
		return false
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(data["ca.crt"])
	_, err = pair.Leaf.Verify(x509.VerifyOptions{Roots: pool})
	return err == nil
}

// audit is the API server's log of what was asked. The tests' API server allows everything,
// so the rules of the manifests are held to what the webhook asks for.
type audit struct{ policy, log string }

func newAudit(t *testing.T) audit {
	t.Helper()
	dir := t.TempDir()
	a := audit{filepath.Join(dir, "policy.yaml"), filepath.Join(dir, "log")}
	policy := "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules: [{level: Metadata}]\n"
	if err := os.WriteFile(a.policy, []byte(policy), 0o600); err != nil {
		t.Fatal(err)
	}
	return a
}

func (a audit) flags() []string {
	return []string{"--audit-policy-file=" + a.policy, "--audit-log-path=" + a.log}
}

// event is what matters of one.
type event struct {
	Verb      string `json:"verb"`
	UserAgent string `json:"userAgent"`
	ObjectRef *struct {
		Resource  string `json:"resource"`
		Namespace string `json:"namespace"`
		Name      string `json:"name"`
		APIGroup  string `json:"apiGroup"`
	} `json:"objectRef"`
}

// wantGranted: the manifests' Role and ClusterRole allow what the webhook has asked for, and
// all that they allow was asked for, but list: newer API servers send it as part of a watch.
func (a audit) wantGranted(r *replicated) {
	r.Helper()
	rules := map[string][]rbac.PolicyRule{}
	for _, object := range r.manifest() {
		if kind, _ := object["kind"].(string); kind == "Role" || kind == "ClusterRole" {
			text, err := yaml.Marshal(object)
			if err != nil {
				r.Fatal(err)
			}
			var role rbac.Role // a ClusterRole has the same rules
			if err := yaml.Unmarshal(text, &role); err != nil {
				r.Fatal(err)
			}
			rules[role.Namespace] = append(rules[role.Namespace], role.Rules...)
		}
	}
	file, err := os.Open(a.log)
	if err != nil {
		r.Fatal(err)
	}
	defer file.Close()
	used := map[string]bool{}
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var e event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			r.Fatal(err)
		}
		if !strings.HasPrefix(e.UserAgent, "lifecycle-webhook/") || e.ObjectRef == nil {
			continue
		}
		if !slices.ContainsFunc(rules[e.ObjectRef.Namespace], e.allowedBy) {
			r.Errorf("no rule allows %s %s %q in %q", e.Verb, e.ObjectRef.Resource, e.ObjectRef.Name, e.ObjectRef.Namespace)
		}
		used[e.Verb+" "+e.ObjectRef.Resource] = true
	}
	if err := lines.Err(); err != nil {
		r.Fatal(err)
	}
	for _, of := range rules {
		for _, rule := range of {
			for _, resource := range rule.Resources {
				for _, verb := range rule.Verbs {
					if verb != "list" && !used[verb+" "+resource] {
						r.Errorf("%s %s is allowed, and not needed", verb, resource)
					}
				}
			}
		}
	}
}

func (e event) allowedBy(rule rbac.PolicyRule) bool {
	return slices.Contains(rule.APIGroups, e.ObjectRef.APIGroup) && slices.Contains(rule.Resources, e.ObjectRef.Resource) &&
		slices.Contains(rule.Verbs, e.Verb) && slices.Contains(rule.ResourceNames, e.ObjectRef.Name)
}
