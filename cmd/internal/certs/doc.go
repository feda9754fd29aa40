// Package certs makes and rotates the certificates of the webhook in a cluster: a
// certificate authority and a server certificate, in one Secret, and the authority in the
// caBundle of two webhook configurations.
//
// Next decides the next step from what the Secret holds, what the configurations trust and
// the time. It has no I/O and no clock. Keeper carries the steps out, in the replica that
// leads. Holder is in every replica: it watches the Secret and gives the server its
// certificate.
//
// No step makes a call fail that an API server sends meanwhile. A server certificate is
// renewed by the same authority. The authority is replaced in stages:
//
//	propose   the Secret gets the next authority, beside the one that signs
//	publish   both configurations trust both of them
//	wait      until every API server has read the configurations
//	promote   the next authority signs a server certificate, the former one signs no more;
//	          its key is removed
//	drop      when every certificate that it signed has expired, the former one is no longer trusted
//
// So no step depends on when a replica reads the Secret: a replica that does not follow may
// serve its certificate until that expires.
//
// The same stages are taken if the Secret is lost or damaged, because replicas still serve
// the certificate that they have read. What the configurations trust then is kept as the
// former authority.
//
// The Secret and the configurations may hold anything. They are read in bounded size;
// what cannot be used is reported and made anew, by the leader only. A certificate whose key
// does not match, or that the Secret's own authorities did not sign, is never served.
package certs
