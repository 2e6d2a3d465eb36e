// Package approval says what people approve, and checks that they did: the policy
// of an account, the statement that an approver's device signs after its person has
// seen what it says, and the bundle of signatures that goes to the nodes with a
// signing request.
//
// Nodes, coordinator and approvers' devices use the same code; the web page has a
// mirror of the encodings (ui/src), held to them by shared vectors in testdata. The
// package does no I/O and keeps no state: who may ask, how a device is enrolled, how
// often a code may be guessed are questions for the coordinator, and nothing here
// depends on its answers.
//
// Encodings are canonical: a label, then every field in order, each preceded by its
// length (4 bytes, big-endian). What Parse… returns marshals to the same bytes.
package approval
