package certs

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	admissionregistration "k8s.io/api/admissionregistration/v1"
	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

const (
	mutating   = "MutatingWebhookConfiguration"
	validating = "ValidatingWebhookConfiguration"
	// answer bounds one request to the API server.
	answer = 10 * time.Second
	// repeat is how often watches report what they have seen: a certificate that was not valid yet may be so now.
	repeat = time.Minute
)

// Kube is a Cluster: a Secret, and the two webhook configurations of one name.
type Kube struct {
	Client            kubernetes.Interface
	Namespace, Secret string
	// Configuration is the name of both.
	Configuration string
}

// Read implements Cluster. It reads from the API server, not from a watch, which may be late.
func (k *Kube) Read(ctx context.Context) (Snapshot, error) {
	ctx, cancel := context.WithTimeout(ctx, answer)
	defer cancel()
	var snapshot Snapshot
	secret, err := k.Client.CoreV1().Secrets(k.Namespace).Get(ctx, k.Secret, meta.GetOptions{})
	switch {
	case err == nil:
		snapshot.Data, snapshot.Version, snapshot.secret = secret.Data, secret.ResourceVersion, secret
	case !apierrors.IsNotFound(err):
		return Snapshot{}, fmt.Errorf("cannot read Secret %s/%s: %w", k.Namespace, k.Secret, err)
	}
	registrations := k.Client.AdmissionregistrationV1()
	mutates, err := registrations.MutatingWebhookConfigurations().Get(ctx, k.Configuration, meta.GetOptions{})
	if err == nil {
		bundles := make([][]byte, len(mutates.Webhooks))
		for i, entry := range mutates.Webhooks {
			bundles[i] = entry.ClientConfig.CABundle
		}
		snapshot.Configurations = append(snapshot.Configurations, Configuration{mutating, mutates.ResourceVersion, bundles})
	} else if !apierrors.IsNotFound(err) {
		return Snapshot{}, fmt.Errorf("cannot read %s %s: %w", mutating, k.Configuration, err)
	}
	validates, err := registrations.ValidatingWebhookConfigurations().Get(ctx, k.Configuration, meta.GetOptions{})
	if err == nil {
		bundles := make([][]byte, len(validates.Webhooks))
		for i, entry := range validates.Webhooks {
			bundles[i] = entry.ClientConfig.CABundle
		}
		snapshot.Configurations = append(snapshot.Configurations, Configuration{validating, validates.ResourceVersion, bundles})
	} else if !apierrors.IsNotFound(err) {
		return Snapshot{}, fmt.Errorf("cannot read %s %s: %w", validating, k.Configuration, err)
	}
	return snapshot, nil
}

// Write implements Cluster. Other keys of the Secret are removed; its labels and owners stay.
func (k *Kube) Write(ctx context.Context, snapshot Snapshot, data map[string][]byte) error {
	ctx, cancel := context.WithTimeout(ctx, answer)
	defer cancel()
	secrets := k.Client.CoreV1().Secrets(k.Namespace)
	if snapshot.secret == nil {
		secret := &core.Secret{ObjectMeta: meta.ObjectMeta{Name: k.Secret, Namespace: k.Namespace}, Data: data}
		if _, err := secrets.Create(ctx, secret, meta.CreateOptions{}); err != nil {
			return fmt.Errorf("cannot create Secret %[1]s/%[2]s (create it empty: kubectl -n %[1]s create secret generic %[2]s): %[3]w", k.Namespace, k.Secret, err)
		}
		return nil
	}
	secret := snapshot.secret.DeepCopy() // with its version: the API server refuses it if it was changed
	secret.Data = data
	if _, err := secrets.Update(ctx, secret, meta.UpdateOptions{}); err != nil {
		return fmt.Errorf("cannot write Secret %s/%s: %w", k.Namespace, k.Secret, err)
	}
	return nil
}

// operation is one of a JSON patch.
type operation struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	Value any    `json:"value"`
}

// Publish implements Cluster.
func (k *Kube) Publish(ctx context.Context, configuration Configuration, bundle []byte) error {
	ctx, cancel := context.WithTimeout(ctx, answer)
	defer cancel()
	// The version makes the API server refuse the patch if entries have moved meanwhile.
	operations := []operation{{"replace", "/metadata/resourceVersion", configuration.Version}}
	for i := range configuration.Bundles {
		operations = append(operations, operation{"add", fmt.Sprintf("/webhooks/%d/clientConfig/caBundle", i), bundle})
	}
	patch, err := json.Marshal(operations)
	if err != nil {
		return err
	}
	if configuration.Kind == mutating {
		_, err = k.Client.AdmissionregistrationV1().MutatingWebhookConfigurations().Patch(ctx, k.Configuration, types.JSONPatchType, patch, meta.PatchOptions{})
	} else {
		_, err = k.Client.AdmissionregistrationV1().ValidatingWebhookConfigurations().Patch(ctx, k.Configuration, types.JSONPatchType, patch, meta.PatchOptions{})
	}
	if err != nil {
		return fmt.Errorf("cannot write the caBundle of %s %s: %w", configuration.Kind, k.Configuration, err)
	}
	return nil
}

// WatchSecret calls take with the Secret's data, and with nil when it is deleted, until ctx
// ends.
func (k *Kube) WatchSecret(ctx context.Context, take func(data map[string][]byte)) {
	watch(ctx, k.Client.CoreV1().RESTClient(), "secrets", k.Namespace, k.Secret, &core.Secret{}, func(object any) {
		if secret, ok := object.(*core.Secret); ok {
			take(secret.Data)
		} else {
			take(nil)
		}
	})
}

// WatchConfigurations calls changed when one of the two changes, until ctx ends.
func (k *Kube) WatchConfigurations(ctx context.Context, changed func()) {
	done := make(chan struct{})
	client := k.Client.AdmissionregistrationV1().RESTClient()
	go func() {
		defer close(done)
		watch(ctx, client, "validatingwebhookconfigurations", "", k.Configuration, &admissionregistration.ValidatingWebhookConfiguration{}, func(any) { changed() })
	}()
	watch(ctx, client, "mutatingwebhookconfigurations", "", k.Configuration, &admissionregistration.MutatingWebhookConfiguration{}, func(any) { changed() })
	<-done
}

// watch calls seen with one object, or with nil when it is deleted.
func watch(ctx context.Context, client cache.Getter, resource, namespace, name string, kind runtime.Object, seen func(object any)) {
	_, controller := cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: cache.NewListWatchFromClient(client, resource, namespace, fields.OneTermEqualSelector("metadata.name", name)),
		ObjectType:    kind,
		ResyncPeriod:  repeat,
		Handler: cache.ResourceEventHandlerFuncs{
			AddFunc:    seen,
			UpdateFunc: func(_, object any) { seen(object) },
			DeleteFunc: func(any) { seen(nil) },
		},
	})
	controller.RunWithContext(ctx)
}
