package backend

import (
	"cmp"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

// subjects orders the reference. A path belongs to the first that its beginning
// fits.
func subjects() []struct{ title, prefix string } {
	return []struct{ title, prefix string }{
		{"Configuration", "config/"},
		{"Accounts", "accounts/"},
		{"Signing", "sign/"},
		{"Verifying", "verify/"},
		{"Logins", "login/"},
		{"Sessions", "session/"},
		{"Nodes", "nodes/"},
		{"Rotation", "rotation/"},
		{"Wrapping keys", "wrapping-keys/"},
		{"Recovery", "recovery/"},
		{"Destruction", "destroy/"},
		{"Metrics", "metrics"},
		{"Others", ""},
	}
}

const referenceHead = `# API reference

Made from the path definitions by ` + "`make api`" + `; the same text is in Vault as ` + "`vault path-help mpc/…`" + `.
Machines read [openapi.json](openapi.json); Vault gives the same out at
` + "`sys/internal/specs/openapi`" + `, but loses the references to schemas, as of every external plugin.

Paths are relative to the mount, here ` + "`mpc`" + `: over HTTP ` + "`sign/alice`" + ` is
` + "`POST $VAULT_ADDR/v1/mpc/sign/alice`" + ` with a JSON body and the header ` + "`X-Vault-Token`" + `.

- **Capabilities** are what a Vault policy has to grant; [policies](policies/) has examples. Where
  *create* and *update* are named, Vault asks for *create* while there is nothing yet at the path.
- **Fields** are sent in the body, with LIST in the query. A field that a path does not know is
  refused (400), and nothing is done; where a path is only read, it is ignored with a warning.
- Bytes are base64, with a twin in hex where that is usual. Durations are seconds or texts such as
  ` + "`10m`" + `; answers have seconds. Times are RFC 3339 in UTC, empty for never.
- **Answers** are in the member ` + "`data`" + `; ` + "`warnings`" + ` beside it says what was ignored or fits badly.
  Fields marked ○ are not in every answer.

| status | |
|---|---|
| 200, 204 | done; 204 has no body |
| 400 | the request has to be mended; the text says how |
| 403 | Vault: the token may not do this, or a *sudo* path was called without that capability |
| 404 | no such account, node, version or path |
| 405 | Vault: the path has no such method |
| 409 | not now: something is under way or in the wrong state; the text says what to wait for |
| 429 | more requests wait for nodes than are let in: repeat after a pause |
| 500 | something is wrong here; the log has it under the same operation |
| 503 | HSM or nodes are not there, or time ran out: may be repeated |

`

// apiReference is docs/api.md.
func apiReference(t *testing.T, b *backend) []byte {
	t.Helper()
	groups := make([][]*framework.Path, len(subjects()))
	for _, p := range published(b) {
		i := slices.IndexFunc(subjects(), func(s struct{ title, prefix string }) bool {
			return strings.HasPrefix(pathName(p)+"/", s.prefix)
		})
		groups[i] = append(groups[i], p)
	}
	var out strings.Builder
	out.WriteString(referenceHead)
	seen := map[string]int{}
	for i, s := range subjects() {
		slices.SortFunc(groups[i], func(x, y *framework.Path) int { return cmp.Compare(pathName(x), pathName(y)) })
		if len(groups[i]) == 0 {
			continue
		}
		var links []string
		for _, p := range groups[i] {
			to := anchor(p)
			if n := seen[to]; n > 0 { // as GitHub numbers headings that are alike
				to = fmt.Sprintf("%s-%d", to, n)
			}
			seen[anchor(p)]++
			links = append(links, fmt.Sprintf("[%s](#%s)", pathName(p), to))
		}
		fmt.Fprintf(&out, "**%s:** %s\n\n", s.title, strings.Join(links, " · "))
	}
	for i, s := range subjects() {
		if len(groups[i]) > 0 {
			fmt.Fprintf(&out, "## %s\n\n", s.title)
		}
		for _, p := range groups[i] {
			writePath(&out, b, p)
		}
	}
	return []byte(strings.TrimRight(out.String(), "\n") + "\n")
}

// anchor is what GitHub makes of a path's heading.
func anchor(p *framework.Path) string {
	return strings.NewReplacer("/", "", ":", "", "`", "").Replace(pathName(p))
}

func writePath(out *strings.Builder, b *backend, p *framework.Path) {
	fmt.Fprintf(out, "### `%s`\n\n%s\n\n", pathName(p), strings.TrimSpace(p.HelpSynopsis))
	out.WriteString("| method | capability | |\n|---|---|---|\n")
	ops := operations(p)
	for i := 0; i < len(ops); i++ {
		op, summary := ops[i], p.Operations[ops[i]].Properties().Summary
		capability := "*" + string(op) + "*"
		if i+1 < len(ops) && method(ops[i+1]) == method(op) && p.Operations[ops[i+1]].Properties().Summary == summary {
			i++
			capability += ", *" + string(ops[i]) + "*"
		}
		if sudo(b, p) {
			capability += ", *sudo*"
		}
		fmt.Fprintf(out, "| %s | %s | %s |\n", method(op), capability, cell(summary))
	}
	out.WriteString("\n")
	writeFields(out, p)
	writeAnswers(out, p)
	writeHelp(out, p.HelpDescription)
}

// method is the HTTP method of an operation.
func method(op logical.Operation) string {
	switch op {
	case logical.ReadOperation:
		return http.MethodGet
	case logical.ListOperation:
		return "LIST"
	case logical.DeleteOperation:
		return http.MethodDelete
	case logical.PatchOperation:
		return http.MethodPatch
	}
	return http.MethodPost
}

func writeFields(out *strings.Builder, p *framework.Path) {
	var rows []string
	for _, name := range sortedFields(p.Fields) {
		f := p.Fields[name]
		if captured(p, name) {
			continue
		}
		kind := fieldType(f.Type)
		if f.Query {
			kind += ", query"
		}
		rows = append(rows, fmt.Sprintf("| `%s` | %s | %s | %s |\n", name, kind, defaultOf(f), cell(f.Description)))
	}
	if len(rows) == 0 {
		return
	}
	fmt.Fprintf(out, "**Fields**\n\n| field | type | default | |\n|---|---|---|---|\n%s\n", strings.Join(rows, ""))
}

func defaultOf(f *framework.FieldSchema) string {
	value := f.Default
	if value == nil || value == "" {
		return ""
	}
	return "`" + fmt.Sprint(value) + "`"
}

// writeAnswers writes one table where all operations have the same answer.
func writeAnswers(out *strings.Builder, p *framework.Path) {
	type answer struct {
		ops    []string
		fields map[string]*framework.FieldSchema
		note   string
	}
	var answers []*answer
	for _, op := range operations(p) {
		a := &answer{ops: []string{string(op)}}
		for status, responses := range p.Operations[op].Properties().Responses {
			switch r := responses[0]; {
			case status == http.StatusNoContent:
				a.note = "204, no body"
			case r.MediaType != "" && r.MediaType != "application/json":
				a.note = r.MediaType
			default:
				a.fields = r.Fields
			}
		}
		if i := slices.IndexFunc(answers, func(o *answer) bool { return o.note == a.note && reflect.DeepEqual(o.fields, a.fields) }); i >= 0 {
			answers[i].ops = append(answers[i].ops, string(op))
			continue
		}
		answers = append(answers, a)
	}
	for _, a := range answers {
		title := "**Answer"
		if len(answers) > 1 {
			title += " to " + strings.Join(a.ops, ", ")
		}
		if a.note != "" {
			fmt.Fprintf(out, "%s:** %s\n\n", title, a.note)
			continue
		}
		fields := sortedFields(a.fields)
		if rest := withoutAccount(fields); len(rest) < len(fields) && !slices.Contains(a.ops, string(logical.ReadOperation)) {
			title += ":** the account, as [`accounts/:name`](#accountsname) is read"
			if fields = rest; len(fields) > 0 {
				title += ", and"
			}
		} else {
			title += "**"
		}
		out.WriteString(title + "\n\n")
		if len(fields) == 0 {
			continue
		}
		out.WriteString("| field | type | |\n|---|---|---|\n")
		for _, name := range fields {
			f := a.fields[name]
			mark := ""
			if !f.Required {
				mark = " ○"
			}
			fmt.Fprintf(out, "| `%s`%s | %s | %s |\n", name, mark, fieldType(f.Type), cell(f.Description))
		}
		out.WriteString("\n")
	}
}

// withoutAccount leaves out the fields of an account's answer, where all are
// there.
func withoutAccount(fields []string) (rest []string) {
	account := accountAnswerFields()
	for _, name := range fields {
		if account[name] == nil {
			rest = append(rest, name)
		}
	}
	if len(fields)-len(rest) < len(account) {
		return fields
	}
	return rest
}

// fieldType names a type as it is in JSON.
func fieldType(t framework.FieldType) string {
	switch t {
	case framework.TypeInt, framework.TypeInt64:
		return "integer"
	case framework.TypeBool:
		return "boolean"
	case framework.TypeMap, framework.TypeKVPairs:
		return "object"
	case framework.TypeSlice:
		return "list"
	case framework.TypeStringSlice, framework.TypeCommaStringSlice:
		return "list of strings"
	case framework.TypeDurationSecond, framework.TypeSignedDurationSecond:
		return "duration"
	case framework.TypeTime:
		return "time"
	case framework.TypeFloat:
		return "number"
	}
	return "string"
}

// cell makes text fit a table.
func cell(text string) string {
	text = strings.Join(strings.Fields(text), " ")
	return strings.NewReplacer("|", "\\|", "<", "&lt;", ">", "&gt;", "*", "\\*").Replace(text)
}

// writeHelp writes the help of a path: paragraphs, and its commands as blocks.
func writeHelp(out *strings.Builder, help string) {
	inside := false
	for line := range strings.Lines(strings.Trim(help, "\n") + "\n") {
		command := strings.HasPrefix(line, "  ")
		if command != inside {
			if inside = command; inside {
				out.WriteString("```console\n")
			} else {
				out.WriteString("```\n")
			}
		}
		if command {
			line = line[2:]
		} else {
			line = strings.NewReplacer("<", "&lt;", ">", "&gt;", "*", "\\*").Replace(line)
		}
		out.WriteString(line)
	}
	if inside {
		out.WriteString("```\n")
	}
	out.WriteString("\n")
}
