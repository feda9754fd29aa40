// Package convert moves the lifecycle handlers of Kubernetes manifests into the
// annotations of this shim, so that the kubelet does not run them too.
//
// There is one conversion. It works on the JSON that the API server reads, and its result
// is a JSON patch. Stream applies the patch to the YAML or JSON text of manifests; the
// admission webhook returns it to the API server. Package oci checks every block before it
// is written, so the shim accepts everything that a conversion writes.
//
// Text is read twice: by kubectl's library (sigs.k8s.io/yaml, YAML 1.1), which determines
// what it means, and into a tree of nodes, which records where each value is. The editor
// (edit.go) removes and inserts bytes of the text and leaves all others unchanged. Kubectl's
// library then reads the edited text, which is used only if it means the patched original.
// If it does not, the document is rewritten from its nodes (tree.go), checked in the
// same way, and a warning reports it. A document that cannot hold a handler is not read.
//
// All reading goes through package bounded, so work and memory are linear in the text.
//
// A conversion is all or nothing: after one refusal there is no output.
package convert
