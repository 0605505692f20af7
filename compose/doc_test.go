// Package compose checks the examples of this folder: that Compose and Prometheus
// accept them, that they set nothing which no image reads, that they are hardened,
// and, where there is a container engine, that they work.
package compose
