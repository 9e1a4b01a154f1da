package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tidewire/tidewire/config"
	"github.com/tidewire/tidewire/connectors/signature"
)

// maxRequest bounds a captured request.
const maxRequest = 16 << 20

// verifyFlags are what verify is asked.
type verifyFlags struct {
	config, connection                                                                             string
	scheme, secretFile, publicKeyFile, certificateFile, publicURL, webhookID, username, at, remote string
	tolerance                                                                                      time.Duration
	asJSON                                                                                         bool
}

// verifyExample can be pasted into a shell as it is.
const verifyExample = `  printf 'whsec_example' > secret.txt
  printf 'POST /in/stripe HTTP/1.1\nStripe-Signature: t=1767225600,v1=66767d6306a1173a1e9c6a7f1a0ffa2b9f613e44c1a02c71704222e753465204\n\n{"id":"evt_1"}' > request.http
  tidewire verify --scheme stripe --secret-file secret.txt --at 2026-01-01T00:00:00Z < request.http

  printf 'connections: {stripe: {connector: stripe, webhook: {secret: "${file:secret.txt}"}}}' > verify.yaml
  tidewire verify --config verify.yaml --connection stripe --at 2026-01-01T00:00:00Z < request.http`

// schemeNames are the named schemes in lines that fit a terminal.
func schemeNames() string {
	var b strings.Builder
	width := len("Schemes: ")
	for i, s := range signature.Schemes() {
		if i > 0 {
			b.WriteString(",")
			width += 2
		}
		if width += len(s.Name); width > 105 {
			b.WriteString("\n")
			width = len(s.Name)
		} else if i > 0 {
			b.WriteString(" ")
		}
		b.WriteString(s.Name)
	}
	return b.String()
}

func isTerminal(in io.Reader) bool {
	file, ok := in.(*os.File)
	if !ok {
		return false
	}
	info, err := file.Stat()
	if err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return false
	}
	null, err := os.Stat(os.DevNull)
	return err != nil || !os.SameFile(info, null)
}

func newVerify() *cobra.Command {
	var f verifyFlags
	cmd := &cobra.Command{
		Use: "verify (--config FILE --connection NAME | --scheme NAME --secret-file FILE) [flags] < request", DisableFlagsInUseLine: true,
		Short: "Explain why a captured webhook is accepted or refused", Args: noFile,
		Long: `Read a captured HTTP request (request line, headers, empty line, body) from standard input, judge its
signature as the hub would, and say step by step what was found and what would explain a refusal: a missing
header, the wrong secret, an altered body, a clock, another method or address. Nothing is asked over the
network and no secret is printed. Exits with 0 when the request is accepted and with 1 when it is refused.

With --connection it is judged by that connection's webhook settings in the config, of any scheme, named or
spelled out, with every secret of a rotation. With --scheme it is judged by a named scheme and the
credentials in the files given.

A captured request does not hold the certificate of its caller: of mtls nothing can be told from it.

Schemes: ` + schemeNames(),
		Example: verifyExample,
		RunE: func(cmd *cobra.Command, _ []string) error {
			judge, err := f.judge(cmd.Flags().Changed)
			if err != nil {
				return err
			}
			if isTerminal(cmd.InOrStdin()) {
				fmt.Fprintln(cmd.ErrOrStderr(), "tidewire: reading the request from standard input; end it with Ctrl-D")
			}
			return verify(f, judge, cmd.InOrStdin(), cmd.OutOrStdout())
		},
	}
	fl := cmd.Flags()
	fl.StringVarP(&f.config, "config", "c", defaultConfig, "the config file, for --connection")
	fl.StringVar(&f.connection, "connection", "", "the connection whose webhook settings are used")
	fl.StringVar(&f.scheme, "scheme", "", "the scheme's name, such as stripe or standard-webhooks, where there is no config")
	fl.StringVar(&f.secretFile, "secret-file", "", "file that holds the secret; one line end at its end is not part of it")
	fl.StringVar(&f.publicKeyFile, "public-key-file", "", "file that holds the provider's public key")
	fl.StringVar(&f.certificateFile, "certificate-file", "", "file that holds the provider's certificate in PEM")
	fl.StringVar(&f.publicURL, "public-url", "", "the address as it was registered at the provider, for schemes that sign it")
	fl.StringVar(&f.webhookID, "webhook-id", "", "the webhook's identity at the provider (paypal, espocrm)")
	fl.StringVar(&f.username, "username", "", "user name, for basic; the password is the secret")
	fl.StringVar(&f.at, "at", "", "when the request came: RFC 3339 or Unix seconds (default now)")
	fl.StringVar(&f.remote, "remote", "", "address that the request came from, for ip-allow")
	fl.DurationVar(&f.tolerance, "tolerance", 0, "how far a signed timestamp may be off (default: the scheme's)")
	fl.BoolVar(&f.asJSON, "json", false, "print the explanation as JSON")
	return cmd
}

func verify(f verifyFlags, j judge, in io.Reader, out io.Writer) error {
	request, err := f.request(in)
	if err != nil {
		return err
	}
	x := j.explain(request)
	if f.asJSON {
		e := json.NewEncoder(out)
		e.SetIndent("", "  ")
		err = e.Encode(x)
	} else {
		_, err = io.WriteString(out, x.String())
		if f.at == "" && (x.Code == signature.Expired || x.Code == signature.Future) {
			fmt.Fprintln(out, "hint: --at says when a captured request came")
		}
		if f.remote == "" && x.Code == signature.Source {
			fmt.Fprintln(out, "hint: --remote says which address a captured request came from")
		}
	}
	if err == nil && !x.Accepted {
		return fmt.Errorf("%w: refused", errSaid)
	}
	return err
}

// noFile refuses arguments: what is given as one is the request, most of the time.
func noFile(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	return usageError{fmt.Errorf("'%s' takes no arguments, and got %q; the request is read from standard input: < %[2]s (see '%[1]s --help')", cmd.CommandPath(), args[0])}
}

// judge is made of a connection's settings, or of a scheme and the flags. changed says which flags were given.
func (f verifyFlags) judge(changed func(flag string) bool) (judge, error) {
	if f.connection == "" {
		if changed("config") {
			return judge{}, usageError{errors.New("--connection is missing: it names the connection in the config that the request was sent to")}
		}
		verifier, err := f.verifier()
		return judge{verifier: verifier}, err
	}
	for _, flag := range []string{"scheme", "secret-file", "public-key-file", "certificate-file", "public-url", "webhook-id", "username", "tolerance"} {
		if changed(flag) {
			return judge{}, usageError{fmt.Errorf("--%s and --connection exclude one another: the connection's settings say it", flag)}
		}
	}
	return configured(f.config, f.connection)
}

func (f verifyFlags) verifier() (*signature.Verifier, error) {
	if f.scheme == "" {
		return nil, usageError{errors.New("--connection or --scheme is missing; 'tidewire verify --help' lists the schemes and shows an example")}
	}
	secret, err := readTrimmed("--secret-file", f.secretFile)
	if err != nil {
		return nil, err
	}
	publicKey, err := readTrimmed("--public-key-file", f.publicKeyFile)
	if err != nil {
		return nil, err
	}
	certificate, err := readTrimmed("--certificate-file", f.certificateFile)
	if err != nil {
		return nil, err
	}
	s := signature.Settings{
		Scheme: f.scheme, PublicKey: publicKey, Certificate: certificate, PublicURL: f.publicURL, WebhookID: f.webhookID,
		Username: f.username, Tolerance: config.Duration(f.tolerance),
	}
	if f.username != "" {
		s.Password = config.NewSecret(secret)
	} else {
		s.Secret = config.NewSecret(secret)
	}
	verifier, err := signature.New(s)
	if err != nil {
		hint := ""
		if f.secretFile == "" && f.publicKeyFile == "" && f.certificateFile == "" {
			hint = " (here: --secret-file, --public-key-file or --certificate-file)"
		}
		return nil, usageError{fmt.Errorf("--scheme %s: %w%s", f.scheme, err, hint)}
	}
	return verifier, nil
}

// request reads a raw HTTP request. Captures are made by people: bare line feeds are taken for line ends in the head, and the
// body is all that follows, whatever Content-Length says.
func (f verifyFlags) request(in io.Reader) (signature.Request, error) {
	raw, err := io.ReadAll(io.LimitReader(in, maxRequest+1))
	if err != nil {
		return signature.Request{}, fmt.Errorf("read the request: %w", err)
	}
	if len(raw) > maxRequest {
		return signature.Request{}, usageError{fmt.Errorf("the request is larger than %d bytes", maxRequest)}
	}
	head, body, found := bytes.Cut(raw, []byte("\r\n\r\n"))
	if short, rest, ok := bytes.Cut(raw, []byte("\n\n")); ok && (!found || len(short) < len(head)) {
		head, body, found = short, rest, true
	}
	if !found {
		return signature.Request{}, usageError{errors.New("standard input holds no HTTP request: a request line, headers, an empty line and the body are expected")}
	}
	// A copy: the body lies behind the head in the same memory.
	head = slices.Concat(bytes.TrimRight(head, "\r\n"), []byte("\r\n\r\n"))
	r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(head)))
	if err != nil {
		return signature.Request{}, usageError{fmt.Errorf("standard input holds no HTTP request: %w", err)}
	}
	at := time.Now()
	if f.at != "" {
		if at, err = parseTime(f.at); err != nil {
			return signature.Request{}, err
		}
	}
	request := signature.Request{Method: r.Method, URL: r.RequestURI, Header: r.Header, Body: body, At: at}
	if f.remote != "" {
		if request.Remote, err = netip.ParseAddr(f.remote); err != nil {
			return signature.Request{}, usageError{fmt.Errorf("--remote %q is not an IP address", f.remote)}
		}
	}
	return request, nil
}

func parseTime(s string) (time.Time, error) {
	if seconds, err := strconv.ParseInt(s, 10, 64); err == nil {
		return time.Unix(seconds, 0), nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return time.Time{}, usageError{fmt.Errorf("--at %q is neither RFC 3339, such as 2026-01-01T00:00:00Z, nor Unix seconds", s)}
	}
	return t, nil
}

// readTrimmed reads the file that a flag names, without one line end at its end; no path is no text.
func readTrimmed(flag, path string) (string, error) {
	if path == "" {
		return "", nil
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return "", usageError{fmt.Errorf("%s: %w", flag, err)}
	}
	return strings.TrimSuffix(strings.TrimSuffix(string(text), "\n"), "\r"), nil
}
