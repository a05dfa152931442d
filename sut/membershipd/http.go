package membershipd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/unibus/unibus/sut/membershipd/internal/mutant"
)

const (
	httpHeaderTimeout = 5 * time.Second
	httpWriteTimeout  = 10 * time.Second
	httpStopTimeout   = 500 * time.Millisecond
)

// listenHTTP answers from the first moment on, before anything else of the node runs.
func (d *Daemon) listenHTTP(ctx context.Context) (stop func(), err error) {
	l, err := net.Listen("tcp", d.cfg.HTTPListen)
	if err != nil {
		return nil, fmt.Errorf("listen for HTTP: %w", err)
	}
	srv := &http.Server{Handler: d.routes(), ReadHeaderTimeout: httpHeaderTimeout, WriteTimeout: httpWriteTimeout}
	go func() {
		if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			d.fail(fmt.Errorf("serve HTTP: %w", err))
		}
	}()
	return func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), httpStopTimeout)
		defer cancel()
		if srv.Shutdown(ctx) != nil {
			_ = srv.Close()
		}
	}, nil
}

func (d *Daemon) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { text(w, http.StatusOK, "ok") })
	mux.HandleFunc("GET /healthz", d.serveReady)
	mux.HandleFunc("GET /readyz", d.serveReady)
	mux.HandleFunc("GET /servez", d.serveGentle)
	mux.HandleFunc("GET /statusz", d.serveStatus)
	mux.Handle("GET /metrics", promhttp.HandlerFor(d.metrics.registry, promhttp.HandlerOpts{}))
	return mux
}

func (d *Daemon) serveReady(w http.ResponseWriter, _ *http.Request) {
	v := d.eval.view()
	if mutant.Planted == mutant.HealthzProcess {
		v.Ready = true
	}
	if mutant.Planted == mutant.HealthzCached {
		seen := d.eval.quorum.Load()
		v.Ready = v.Ready || seen != nil && time.Since(*seen) < time.Minute
	}
	if !v.Ready {
		text(w, http.StatusServiceUnavailable, strings.Join(v.Reasons, "\n"))
		return
	}
	text(w, http.StatusOK, "ok")
}

func (d *Daemon) serveGentle(w http.ResponseWriter, _ *http.Request) {
	if ok, why := d.eval.gentle(); !ok {
		text(w, http.StatusServiceUnavailable, why)
		return
	}
	text(w, http.StatusOK, "ok")
}

func (d *Daemon) serveStatus(w http.ResponseWriter, _ *http.Request) {
	b, err := json.MarshalIndent(d.status(), "", "  ")
	if err != nil {
		text(w, http.StatusInternalServerError, "encode the status: "+err.Error())
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_, _ = w.Write(append(b, '\n')) // the client may be gone
}

func text(w http.ResponseWriter, code int, body string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	_, _ = fmt.Fprintln(w, body) // the client may be gone
}
