// Package grpc tests the real binaries with gRPC: the interoperability tests that all
// implementations of it share, and what a tunnel may do wrong beside them. h2spec tests the
// HTTP/2 below.
//
// It is a module of its own, so that what these need is nothing that the programs depend on.
package grpc
