// Package convert moves the lifecycle handlers of Kubernetes manifests into the
// annotations of this shim, so that the kubelet does not run them too.
//
// There is one conversion, of the JSON that the API server reads, and its result is
// a JSON patch. Stream applies the patch to the YAML or JSON text of manifests;
// the admission webhook hands it to the API server. Both first build each block
// and have package oci check it, so what is accepted here is accepted by the shim.
//
// Text is read twice: by the library that kubectl reads it with (sigs.k8s.io/yaml, YAML
// 1.1), which says what it means, and into a tree of nodes, which says where everything
// stands. The editor (edit.go) then removes and inserts bytes of the text, and leaves all
// others. The first library reads the result, which is used only if it means the patched
// original. Where that cannot be had, the document is printed anew (tree.go), judged in
// the same way, and a warning says so. A document that cannot hold a handler is not read.
//
// All reading goes through package bounded, so work and memory are linear in the text.
//
// A conversion is all or nothing: with one refusal there is no output.
package convert
