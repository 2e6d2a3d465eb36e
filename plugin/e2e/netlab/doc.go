// Package netlab is a network for tests on one machine: sites with addresses
// of their own, and between them a router that delays, loses and cuts.
//
// A site is a network namespace (network_namespaces(7)) whose only way out is a
// TUN device. The test's own process holds the other end of every TUN device
// and is the router between them: it reads an IPv4 packet from one site, drops
// it or keeps it for the path's delay, and writes it to the other. The kernel's
// own means for this, `tc netem`, is not built into every kernel, and those in
// which continuous integration runs often lack it; namespaces and TUN devices
// are there wherever a process may be root. So there is one mechanism and not
// two, it needs no program (ip, tc, iptables), and what it did to each packet
// can be counted.
//
// What it is not: there is no bandwidth limit, no jitter, no reordering as
// long as a path's delay stays as it is, and no IPv6. Delays are as exact as
// this process is scheduled, so on a busy machine they are longer than asked
// for and never shorter.
//
// Nothing here has a name outside of this process. Namespaces and devices exist
// while a descriptor or a process in them does: when the test process dies,
// however it dies, the kernel takes them down, as soon as the processes that
// were started in them have ended too, which is their owner's to see to. Labs
// of several test processes therefore never meet, although they use the same
// addresses; a machine's own network is not touched.
//
// Border: it knows packets, not what is in them, and starts processes without
// knowing what they are. It imports nothing of ours. It needs Linux, root and
// /dev/net/tun; Available says whether they are there.
package netlab
