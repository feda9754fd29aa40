// Package convert moves the lifecycle handlers of Kubernetes manifests into the
// annotations of this shim, so that the kubelet does not run them too.
//
// There is one conversion, of the JSON that the API server reads, and its result is
// a JSON patch. Stream applies the patch to the YAML or JSON text of manifests;
// the admission webhook hands it to the API server. Both first build each block
// and have package oci check it, so what is accepted here is accepted by the shim.
//
// Text is read twice: by the library that kubectl reads it with
// (sigs.k8s.io/yaml, YAML 1.1), which says what it means, and into a tree of
// nodes that keeps order, style and comments, which is edited and written. What has
// been written is read again by the first library and compared with the patched
// meaning, so a text that the two understand differently is refused, and never
// changed wrongly. A document in which nothing moves is passed on byte for byte.
//
// A conversion is all or nothing: with one refusal there is no output.
package convert
