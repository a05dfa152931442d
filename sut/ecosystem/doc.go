// Package ecosystem holds tests only: a real cluster of membershipd with the programs that other people make for NATS and for monitoring.
//
// The nats command of github.com/nats-io/natscli is built by version and run unchanged. The metrics of running nodes go through Prometheus's own
// parsers, and the alert rules of sut/deploy through its query engine. The package has no code that anybody could import.
package ecosystem
