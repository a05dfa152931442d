package main

import (
	"context"
	"crypto/x509"
	"errors"
	"os"
	"strings"
	"syscall"

	"github.com/nats-io/nats.go"

	"github.com/unibus/unibus/sut/membershipd/control"
)

// explain is an error in one line, with what can be done about it.
func explain(err error) string {
	line := strings.Join(strings.Fields(err.Error()), " ")
	if hint := hintFor(err); hint != "" {
		line += ": " + hint
	}
	return line
}

func hintFor(err error) string {
	var answer *control.Error
	var unknownAuthority x509.UnknownAuthorityError
	var wrongHost x509.HostnameError
	switch {
	case errors.As(err, &answer):
		return codeHints[answer.Code]
	case errors.Is(err, nats.ErrAuthorization), errors.Is(err, nats.ErrAuthExpired), errors.Is(err, nats.ErrAuthRevoked):
		return "the node does not know this key, or its user is disabled (a node's own identity is good at that node only)"
	case errors.As(err, &unknownAuthority):
		return "give the authority of the nodes' certificates with --ca"
	case errors.As(err, &wrongHost):
		return "use a name or address in --server that is in the nodes' certificates"
	case errors.Is(err, nats.ErrSecureConnWanted):
		return "the node does not encrypt its connections: leave out --ca, or have it configured with --tls-cert"
	case errors.Is(err, nats.ErrSecureConnRequired):
		return "the node wants an encrypted connection: give --ca"
	case errors.Is(err, nats.ErrNoServers), errors.Is(err, nats.ErrTimeout), errors.Is(err, context.DeadlineExceeded), errors.Is(err, syscall.ECONNREFUSED),
		errors.Is(err, os.ErrDeadlineExceeded):
		return "no node could be reached: are the addresses in --server right, and do the nodes run?"
	}
	return ""
}

var codeHints = map[control.Code]string{
	control.Denied:      "log in as a user whose role may do this",
	control.Unavailable: "nothing was changed; try again once \"membershipd status\" shows a quorum",
	control.Unknown:     "it may have been done, or may still be: look before you try again",
}
