package fleet

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
)

// A Deployment runs on all nodes, and a client outside reaches each of its pods through the Service.
func TestServiceAcrossNodes(t *testing.T) {
	b := on(t)
	b.apply(strings.ReplaceAll(deployment, "NAME", "across"))
	defer b.kubectl("delete", "deployment,service", "across", "--now")
	b.waitDeployment("across")
	nodes := map[string]bool{}
	for _, pod := range b.pods("app=across") {
		nodes[pod.Spec.NodeName] = true
	}
	if len(nodes) != 3 {
		b.Errorf("three pods that are to be spread are on %v", nodes)
	}
	url := "http://" + b.serviceIP("default", "across") + "/"
	reached := map[string]bool{}
	b.poll("an answer from each pod of the service", func() bool {
		if text, err := b.get(url); err == nil {
			reached[strings.TrimSpace(text)] = true
		}
		return len(reached) == 3
	})
}

// deployment of three pods that say their names, one on each node.
const deployment = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: NAME}
spec:
  replicas: 3
  selector: {matchLabels: {app: NAME}}
  template:
    metadata: {labels: {app: NAME}}
    spec:
      terminationGracePeriodSeconds: 2
      topologySpreadConstraints:
      - {maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: DoNotSchedule, labelSelector: {matchLabels: {app: NAME}}}
      containers:
      - name: web
        image: nginx
        imagePullPolicy: IfNotPresent
        command: [/bin/sh, -c, "hostname > /usr/share/nginx/html/index.html; exec nginx -g 'daemon off;'"]
        readinessProbe: {httpGet: {path: /, port: 80}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: NAME}
spec:
  selector: {app: NAME}
  ports: [{port: 80}]
`

// waitDeployment until all its pods are the newest and available.
func (b *bench) waitDeployment(name string) {
	b.Helper()
	b.poll("deployment "+name, func() bool {
		var d apps.Deployment
		if err := b.Get(b.Context(), "/apis/apps/v1/namespaces/default/deployments/"+name, &d); err != nil {
			return false
		}
		want := *d.Spec.Replicas
		return d.Status.ObservedGeneration == d.Generation && d.Status.UpdatedReplicas == want && d.Status.AvailableReplicas == want && d.Status.Replicas == want
	})
}

func (b *bench) pods(selector string) []core.Pod {
	b.Helper()
	var list core.PodList
	if err := b.Get(b.Context(), "/api/v1/namespaces/default/pods?labelSelector="+selector, &list); err != nil {
		b.Fatal(err)
	}
	return list.Items
}

func (b *bench) serviceIP(namespace, name string) string {
	b.Helper()
	var service core.Service
	if err := b.Get(b.Context(), "/api/v1/namespaces/"+namespace+"/services/"+name, &service); err != nil {
		b.Fatal(err)
	}
	return service.Spec.ClusterIP
}

// get asks from outside the cluster, over a connection of its own.
func (b *bench) get(url string) (string, error) {
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DialContext: b.Network.Dial, DisableKeepAlives: true}}
	response, err := client.Get(url)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	return string(text), err
}
