// Package webhook serves the converter to an API server, as a mutating admission webhook
// (admission.k8s.io/v1) for clusters before Kubernetes 1.36, which have no
// MutatingAdmissionPolicy.
//
// It converts pods that are created with the runtime class of this shim: a JSON patch moves
// their handlers. If the converter refuses a pod, the API server refuses it with the
// converter's text. Warnings reach kubectl. The webhook keeps no state and calls no other
// service, so any number of replicas may run, and a call can be repeated.
//
// It has two paths. /mutate moves handlers. The API server may ignore it when it does not
// answer, because it also receives pods of other classes, whose class may still change.
// /validate is called last and refuses pods of this class whose handlers were not moved.
//
// It serves TLS only. It reads the certificate's files at each handshake, so it uses new
// files from the next connection on: rewritten, renamed, or behind the symbolic link that
// the kubelet swaps in the volume of a Secret. Each connection and request is bounded in
// time and size.
package webhook
