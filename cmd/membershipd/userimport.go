package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/unibus/unibus/sut/membershipd/access"
	"github.com/unibus/unibus/sut/membershipd/control"
)

const (
	// importTimeout is for all users; 100,000 take about a minute.
	importTimeout = time.Hour
	// importEvery is the time between two lines of progress.
	importEvery = 2 * time.Second
	// maxImportLine is more than any line can need that holds a name, a key and a role.
	maxImportLine = 1024
)

// importFlags are those of "user import".
type importFlags struct {
	role             string
	keepGoing, check bool
}

// importResult is what --json prints.
type importResult struct {
	control.Import
	Users    int             `json:"users"` // in the file
	Refusals []importRefusal `json:"refusals,omitempty"`
}

type importRefusal struct {
	Line  int            `json:"line"`
	Name  string         `json:"name"`
	Error *control.Error `json:"error"`
}

func newUserImport(t *target, getenv func(string) string) *cobra.Command {
	f := importFlags{}
	c := &cobra.Command{
		Use: "import FILE", Short: "Add many users from a file", Args: exactly(1),
		Long: `Add many users from a file, "-" for standard input. A line is a name, a public nkey and a role, with spaces between them; without a role it gets that of
--role. Empty lines and those that begin with # are skipped. The whole file is checked before anything is written.
Each user is as if added with "user add": audited one by one, and nothing to do for one that is there already with the same key. So an import that
was interrupted is resumed with the same command. The first user who is refused ends it, with the number of the line; with --keep-going the
others are added all the same.`,
		Example: "  membershipd user import users.txt --role member --nkey-file admin.nk\n" +
			"  membershipd user list --json --nkey-file old.nk | jq -r '.[] | [.name, .nkey, .role] | join(\" \")' | membershipd user import - --nkey-file new.nk",
		RunE: func(c *cobra.Command, args []string) error {
			lines, err := readImport(c.InOrStdin(), args[0], f.role)
			if err != nil {
				return err
			}
			if f.check {
				return t.print(c, importResult{Users: len(lines)}, fmt.Sprintf("%d users can be imported; nothing was written", len(lines)))
			}
			refused := 0
			err = t.callFor(c, getenv, importTimeout, func(ctx context.Context, client *control.Client) error {
				refused, err = t.importUsers(ctx, c, client, lines, f)
				return err
			})
			if err == nil && refused > 0 {
				err = failed(fmt.Errorf("%d of %d users were refused", refused, len(lines)))
			}
			return err
		},
	}
	c.Flags().StringVar(&f.role, "role", "", "the `role` of users whose line has none")
	c.Flags().BoolVar(&f.keepGoing, "keep-going", false, "go on behind a user who is refused; the exit code says that there was one")
	c.Flags().BoolVar(&f.check, "dry-run", false, "check the file, and ask no cluster")
	return c
}

// importUsers returns how many were refused, if that is no reason to stop.
func (t *target) importUsers(ctx context.Context, c *cobra.Command, client *control.Client, lines []importLine, f importFlags) (refused int, err error) {
	res := importResult{Users: len(lines)}
	told := time.Now()
	o := control.ImportOptions{Progress: func(decided int) {
		if time.Since(told) >= importEvery {
			told = time.Now()
			_, _ = fmt.Fprintf(c.ErrOrStderr(), "%d of %d users\n", decided, len(lines)) // the result says what counts
		}
	}}
	if f.keepGoing {
		o.Refused = func(i int, why *control.Error) {
			res.Refusals = append(res.Refusals, importRefusal{Line: lines[i].number, Name: lines[i].req.Name, Error: why})
			_, _ = fmt.Fprintf(c.ErrOrStderr(), "line %d, %s: %s\n", lines[i].number, lines[i].req.Name, why.Message)
		}
	}
	users := make([]control.UserAddRequest, len(lines))
	for i, l := range lines {
		users[i] = l.req
	}
	if res.Import, err = client.ImportAll(ctx, users, o); err != nil {
		return 0, stopped(err, res.Import, lines)
	}
	line := fmt.Sprintf("%d of %d users are there, %d of them new", res.Decided-res.Refused, len(lines), res.Added)
	if len(res.Applied) > 0 {
		line += ", in force on " + strings.Join(res.Applied, ", ")
	}
	if len(res.Pending) > 0 {
		line += "; not yet confirmed by " + strings.Join(res.Pending, ", ")
	}
	return res.Refused, t.print(c, res, line)
}

// stopped says where an import ended.
func stopped(err error, got control.Import, lines []importLine) error {
	var e *control.Error
	if !errors.As(err, &e) || got.Decided >= len(lines) {
		return err
	}
	l := lines[got.Decided]
	if e.Code == control.Unavailable || e.Code == control.Unknown {
		return fmt.Errorf("stopped at line %d of the file (%d users are there; the same command goes on from here): %w", l.number, got.Decided, err)
	}
	return fmt.Errorf("line %d, %s (the %d users before it are there): %w", l.number, l.req.Name, got.Decided, err)
}

// importLine is a user with the line that it came from.
type importLine struct {
	number int
	req    control.UserAddRequest
}

// readImport reads and checks a whole file; "-" is in.
func readImport(in io.Reader, path, role string) ([]importLine, error) {
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, fmt.Errorf("read the users: %w", err)
		}
		defer f.Close() //nolint:errcheck // only read
		in = f
	}
	lines, err := parseImport(in, role)
	if err != nil {
		return nil, fmt.Errorf("read the users: %w", err)
	}
	if len(lines) == 0 {
		return nil, errors.New("read the users: there are none in the file")
	}
	return lines, nil
}

// parseImport wants every name and key once. What only the cluster can know it is asked later.
func parseImport(in io.Reader, role string) ([]importLine, error) {
	sc := bufio.NewScanner(in)
	sc.Buffer(nil, maxImportLine)
	var all []importLine
	names, keys := map[string]int{}, map[string]int{}
	n := 0
	for sc.Scan() {
		n++
		text := strings.TrimSpace(sc.Text())
		if text == "" || text[0] == '#' {
			continue
		}
		req, err := parseImportLine(text, role)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		if at := names[access.Skeleton(req.Name)]; at > 0 {
			return nil, fmt.Errorf("line %d: the name %q can be taken for that of line %d", n, req.Name, at)
		}
		if at := keys[req.Key]; at > 0 {
			return nil, fmt.Errorf("line %d: the key of %q is that of line %d, too", n, req.Name, at)
		}
		names[access.Skeleton(req.Name)], keys[req.Key] = n, n
		all = append(all, importLine{number: n, req: req})
	}
	if err := sc.Err(); err != nil {
		return nil, fmt.Errorf("line %d: %w", n+1, err)
	}
	return all, nil
}

func parseImportLine(text, role string) (control.UserAddRequest, error) {
	words := strings.Fields(text)
	if len(words) < 2 || len(words) > 3 {
		return control.UserAddRequest{}, fmt.Errorf("%d words: want a name, a public nkey, and a role", len(words))
	}
	req := control.UserAddRequest{Name: words[0], Key: words[1], Role: role}
	if len(words) == 3 {
		req.Role = words[2]
	}
	if req.Role == "" {
		return req, errors.New("no role: give one on the line, or --role for all lines without")
	}
	for _, err := range []error{access.CheckName("user", req.Name), access.CheckKey(req.Key), access.CheckName("role", req.Role)} {
		if err != nil {
			return req, err
		}
	}
	return req, nil
}
