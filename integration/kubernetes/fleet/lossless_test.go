package fleet

import (
	"fmt"
	"net"
	"strings"
	"testing"
)

// way is how the pods of a Deployment end.
type way struct {
	name         string
	runtimeClass string
	preStop      string // of the container's lifecycle
}

// waitFirst keeps the pod serving while it leaves the service: kube-proxies hear of it up to some seconds later.
const waitFirst = `{sleep: {seconds: 5}}`

var ways = []way{
	{name: "none"},
	{name: "kubelet", preStop: waitFirst},
	{name: "ours", preStop: waitFirst, runtimeClass: "lifecycle"},
}

// A Deployment is restarted and a node is drained while clients ask: without a preStop requests fail, with ours none does.
func TestNoRequestIsLost(t *testing.T) {
	b := on(t)
	b.install("4", onAnyNode...)
	defer b.uninstall("4")
	b.admits()
	b.allReady()
	results := map[string]map[string]tally{}
	table := "\n| preStop | rolling restart | drain |\n|---|---|---|\n"
	for _, w := range ways {
		results[w.name] = b.restartAndDrain(w)
		table += fmt.Sprintf("| %s | %v | %v |\n", w.name, results[w.name]["restart"], results[w.name]["drain"])
	}
	b.Log(table)
	for _, what := range []string{"restart", "drain"} {
		if results["none"][what].failures() == 0 {
			b.Errorf("%s: no request fails without a preStop: this test shows nothing", what)
		}
		if failed := results["ours"][what]; failed.failures() != 0 {
			b.Errorf("%s: with our preStop %v", what, failed)
		}
	}
}

func (b *bench) restartAndDrain(w way) map[string]tally {
	b.Helper()
	name := "web-" + w.name
	b.apply(w.manifest(name))
	defer b.kubectl("delete", "deployment,service,poddisruptionbudget", name)
	b.waitDeployment(name)
	b.checkWay(w, name)
	address := net.JoinHostPort(b.serviceIP("default", name), "80")
	b.poll("an answer of the service", func() bool { _, err := b.get("http://" + address + "/"); return err == nil })

	result := map[string]tally{}
	load := b.startLoad(address)
	b.kubectl("rollout", "restart", "deployment/"+name)
	b.kubectl("rollout", "status", "deployment/"+name, "--timeout=3m")
	b.waitEndOfOld(name)
	result["restart"] = load.since()

	b.kubectl("drain", "node2", "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=3m")
	defer b.kubectl("uncordon", "node2")
	b.waitDeployment(name)
	b.waitEndOfOld(name)
	load.end()
	result["drain"] = load.since()
	return result
}

// waitEndOfOld pods: those that have ended may still fail requests until then.
func (b *bench) waitEndOfOld(name string) {
	b.Helper()
	b.poll("the end of the old pods", func() bool { return len(b.pods("app="+name)) == webReplicas })
}

// checkWay fails if the pods do not end in that way.
func (b *bench) checkWay(w way, name string) {
	b.Helper()
	for _, pod := range b.pods("app=" + name) {
		native := pod.Spec.Containers[0].Lifecycle != nil
		moved := strings.Contains(pod.Annotations["web.lifecycle-shim.io/lifecycle"], `"preStop"`)
		if native != (w.name == "kubelet") || moved != (w.name == "ours") {
			b.Fatalf("%s: pod %s has native handlers: %v, moved ones: %v", w.name, pod.Name, native, moved)
		}
	}
}

const webReplicas = 6

func (w way) manifest(name string) string {
	text := strings.ReplaceAll(fmt.Sprintf(web, webReplicas), "NAME", name)
	if w.preStop != "" {
		text = strings.Replace(text, "        image: nginx\n", "        image: nginx\n        lifecycle: {preStop: "+w.preStop+"}\n", 1)
	}
	if w.runtimeClass != "" {
		text = strings.Replace(text, "      containers:\n", "      runtimeClassName: "+w.runtimeClass+"\n      containers:\n", 1)
	}
	return text
}

const web = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: NAME}
spec:
  replicas: %d
  selector: {matchLabels: {app: NAME}}
  strategy: {rollingUpdate: {maxUnavailable: 0, maxSurge: 1}}
  template:
    metadata: {labels: {app: NAME}}
    spec:
      topologySpreadConstraints:
      - {maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: ScheduleAnyway, labelSelector: {matchLabels: {app: NAME}}}
      containers:
      - name: web
        image: nginx
        imagePullPolicy: IfNotPresent
        readinessProbe: {httpGet: {path: /, port: 80}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: NAME}
spec:
  selector: {app: NAME}
  ports: [{port: 80}]
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: NAME}
spec:
  maxUnavailable: 1
  selector: {matchLabels: {app: NAME}}
`
