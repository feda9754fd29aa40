// Package installer tests lifecycle-installer against a real API server, with the objects of deploy/kubernetes: the rights of its
// account and the policy that limits them. Its nodes are Node objects; what would change a node is a stand-in that records when it
// was called, and in which namespaces. Package fleet has real nodes.
package installer
