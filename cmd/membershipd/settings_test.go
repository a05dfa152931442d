package main

import (
	"io"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/unibus/unibus/sut/membershipd"
)

// notFlags are the fields of the configuration that are not settings.
var notFlags = []string{"Version", "Log"}

// onlyFlags are settings of the command itself.
var onlyFlags = []string{"help", "log-level", "log-format"}

var wordStart = regexp.MustCompile(`([a-z])([A-Z])|([A-Z])([A-Z][a-z])`)

// flagOf turns ClusterTLSCert into cluster-tls-cert.
func flagOf(field string) string {
	field = strings.Replace(field, "TLSCA", "TLSCa", 1) // two abbreviations
	for {
		next := wordStart.ReplaceAllString(field, "$1$3-$2$4")
		if next == field {
			return strings.ToLower(field)
		}
		field = next
	}
}

func envOf(flag string) string {
	return membershipd.EnvPrefix + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// serveWith parses flags and variables as "serve" does.
func serveWith(env map[string]string, args ...string) (membershipd.Config, error) {
	cfg := membershipd.DefaultConfig()
	var f serveFlags
	c := &cobra.Command{}
	addServeFlags(c, &cfg, &f)
	if err := c.ParseFlags(args); err != nil {
		return cfg, err
	}
	if err := fillFromEnv(c.Flags(), func(k string) string { return env[k] }); err != nil {
		return cfg, err
	}
	err := f.apply(&cfg, io.Discard)
	cfg.Log = nil // a new one each time
	return cfg, err
}

// TestEverySettingIsAFlag: the flags of "serve" are the fields of the configuration, and each flag and each variable sets its own field only.
func TestEverySettingIsAFlag(t *testing.T) {
	flags := map[string]*pflag.Flag{}
	newServe(noEnv).Flags().VisitAll(func(f *pflag.Flag) {
		if !slices.Contains(onlyFlags, f.Name) {
			flags[f.Name] = f
		}
	})
	plain, err := serveWith(nil)
	if err != nil {
		t.Fatal(err)
	}
	for field := range reflect.TypeFor[membershipd.Config]().Fields() {
		if slices.Contains(notFlags, field.Name) {
			continue
		}
		name := flagOf(field.Name)
		f := flags[name]
		if f == nil {
			t.Errorf("the setting %s has no flag --%s", field.Name, name)
			continue
		}
		delete(flags, name)
		if len(f.Usage) < 10 {
			t.Errorf("--%s: no help", name)
		}
		value := other(t, reflect.ValueOf(plain).FieldByName(field.Name))
		for what, set := range map[string]func() (membershipd.Config, error){
			"--" + name: func() (membershipd.Config, error) { return serveWith(nil, "--"+name+"="+value) },
			envOf(name): func() (membershipd.Config, error) { return serveWith(map[string]string{envOf(name): value}) },
			"flag over variable": func() (membershipd.Config, error) {
				return serveWith(map[string]string{envOf(name): "not this"}, "--"+name+"="+value)
			},
		} {
			got, err := set()
			if err != nil {
				t.Errorf("%s: %v", what, err)
				continue
			}
			if changed := differences(plain, got); !slices.Equal(changed, []string{field.Name}) {
				t.Errorf("%s=%s changes the settings %v", what, value, changed)
			}
		}
	}
	for name := range flags {
		t.Errorf("the flag --%s belongs to no setting", name)
	}
}

// other is a value that a setting does not have by itself.
func other(t *testing.T, v reflect.Value) string {
	t.Helper()
	switch v.Interface().(type) {
	case string:
		return "other"
	case bool:
		return map[bool]string{true: "false", false: "true"}[v.Bool()]
	case int:
		return "77"
	case int64:
		return "77G"
	case time.Duration:
		return "77s"
	case []string:
		return "192.0.2.1:6222,192.0.2.2:6222"
	}
	t.Fatalf("a setting of the type %s", v.Type())
	return ""
}

func differences(a, b membershipd.Config) []string {
	var names []string
	for field := range reflect.TypeFor[membershipd.Config]().Fields() {
		if !reflect.DeepEqual(reflect.ValueOf(a).FieldByIndex(field.Index).Interface(), reflect.ValueOf(b).FieldByIndex(field.Index).Interface()) {
			names = append(names, field.Name)
		}
	}
	return names
}

// FuzzEnv: whatever a variable holds, it means the same as the flag with that value, or is refused in one line that names it. The settings that come
// out are then good or are refused, and nothing panics.
func FuzzEnv(f *testing.F) {
	var names []string
	newServe(noEnv).Flags().VisitAll(func(fl *pflag.Flag) {
		if fl.Name != "help" {
			names = append(names, fl.Name)
		}
	})
	for i := range names {
		for _, value := range []string{
			"x", "0", "-1", "3", "true", "always", "2m", "1e9h", "10G", "9223372036854775807T", "a:1,b:2,c:3", "nats://a:1, ,b:99999", "[::1]:6222", ":0",
			"\x00", "\xff\xfe", "a\nb", "--name", "debug", "json", strings.Repeat("9", 400), strings.Repeat("a,", 300), "%s%n", "none", "verify",
		} {
			f.Add(uint8(i), value)
		}
	}
	f.Fuzz(func(t *testing.T, which uint8, value string) {
		name := names[int(which)%len(names)]
		byEnv, err := serveWith(map[string]string{envOf(name): value})
		if value == "" {
			return // as if it were not there
		}
		byFlag, flagErr := serveWith(nil, "--"+name+"="+value)
		if (err == nil) != (flagErr == nil) || !reflect.DeepEqual(byEnv, byFlag) {
			t.Fatalf("%s=%q: %v, and as a flag: %v", envOf(name), value, err, flagErr)
		}
		if err != nil {
			if line := explain(err); strings.ContainsAny(line, "\r\n") || !strings.Contains(line, envOf(name)) && !strings.Contains(line, name) {
				t.Fatalf("%q does not name %s, or has several lines", line, name)
			}
			return
		}
		if err := byEnv.Check(); err == nil {
			t.Fatalf("%s=%q makes good settings out of nothing", envOf(name), value)
		}
	})
}
