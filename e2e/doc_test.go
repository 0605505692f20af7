// Package e2e drives the real binaries the way their users do: with an environment, signals, curl, a browser's
// websocket and Prometheus. Nothing of the developer's environment reaches them but PATH and HOME, ports are picked
// freely and read from the log, and every wait is for an event.
//
// program_test.go starts and stops a program, tunnel_test.go a server with a client, visit_test.go visits; the other
// files are by subject.
package e2e
