// Package webhook is the converter behind an API server: a mutating admission
// webhook (admission.k8s.io/v1) for clusters before Kubernetes 1.36, which have no
// MutatingAdmissionPolicy.
//
// It looks at pods that are created and name the runtime class of this shim. Their
// handlers are moved by a JSON patch; what the converter refuses, the API server
// refuses in the converter's words; warnings reach kubectl. It keeps no state and asks
// nobody anything, so any number of replicas may run, and a call can be repeated.
//
// It has two doors. /mutate moves, and may be passed over when it does not answer:
// pods of other classes are sent there too, because their class may yet change. At the
// end /validate refuses the pods of this class whose handlers have not been moved.
//
// It speaks TLS only. The certificate's files are read at each handshake, so new
// ones are used from the next connection on, whatever way they got there: rewritten,
// renamed, or behind the symbolic link that the kubelet swaps in a volume of a
// Secret. Each connection and request is bounded in time and size.
package webhook
