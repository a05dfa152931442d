package health

import "time"

// TLS says how a node's connections are encrypted.
type TLS struct {
	Clients TLSListener `json:"clients"`
	Routes  TLSListener `json:"routes"`
}

// TLSListener is what is in force on one of a node's listeners.
type TLSListener struct {
	Enabled           bool       `json:"enabled"`
	ClientAuth        string     `json:"client_auth,omitempty"` // "none" or "verify": whether those who dial need a certificate
	NotAfter          time.Time  `json:"not_after,omitzero"`    // when the node's certificate expires
	Serial            string     `json:"serial,omitempty"`      // of the node's certificate, hexadecimal
	Authorities       int        `json:"authorities,omitempty"` // accepted for those who dial, and on routes for those who are dialed
	AuthorityNotAfter *time.Time `json:"authority_not_after,omitempty"`
	Loaded            time.Time  `json:"loaded,omitzero"`
	Reloads           uint64     `json:"reloads"`
	ReloadFailures    uint64     `json:"reload_failures"`
	ReloadError       string     `json:"reload_error,omitempty"` // why the files that are there now are not in force
	Warning           string     `json:"warning,omitempty"`      // what somebody should see to; "" for nothing
}

// Expired names the listener whose certificate has expired, the routes first.
func (t TLS) Expired(now time.Time) (listener string, expired bool) {
	switch {
	case t.Routes.Enabled && now.After(t.Routes.NotAfter):
		return "routes", true
	case t.Clients.Enabled && now.After(t.Clients.NotAfter):
		return "clients", true
	}
	return "", false
}
