package webhooks

import (
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/tidewire/tidewire/connectors"
)

// The answers that are the same for everybody. They say what the caller did, never why a signature was not good.
var (
	noPath      = problem(http.StatusNotFound, "there is nothing here")
	noCall      = problem(http.StatusNotFound, "no such connection")
	noEncoding  = problem(http.StatusUnsupportedMediaType, "this content encoding is not taken here", "Accept-Encoding", "identity")
	noNesting   = problem(http.StatusUnsupportedMediaType, "one content encoding is taken: gzip or deflate", "Accept-Encoding", "gzip, deflate")
	unframed    = problem(http.StatusBadRequest, "a call has a Content-Length or a Transfer-Encoding, not both", "Connection", "close")
	folded      = problem(http.StatusBadRequest, "a header is one line", "Connection", "close")
	truncated   = problem(http.StatusBadRequest, "the body is not whole", "Connection", "close")
	undecodable = problem(http.StatusBadRequest, "the body is not in its content encoding")
	tooSlow     = problem(http.StatusRequestTimeout, "the body came too slowly", "Connection", "close")
	overLimit   = problem(http.StatusRequestEntityTooLarge, "the call is larger than this connection takes", "Connection", "close")
	notSigned   = problem(http.StatusUnauthorized, "not verified")
	conflicting = problem(http.StatusConflict, "this event's id is known with another body")
	broken      = problem(http.StatusInternalServerError, "the call could not be handled")
	done        = connectors.Reply{Status: http.StatusOK}
)

// maxDetail bounds what a caller is told of why its verified call could not be read, in bytes.
const maxDetail = 300

// problem builds an answer of RFC 9457; headers are name, value pairs.
func problem(status int, title string, headers ...string) connectors.Reply {
	return problemDetail(status, title, "", headers...)
}

// notBy is the answer to a method that is none of these.
func notBy(methods []string) connectors.Reply {
	allowed := slices.Compact(slices.Sorted(slices.Values(methods)))
	return problem(http.StatusMethodNotAllowed, "webhooks do not come by this method", "Allow", strings.Join(allowed, ", "))
}

func problemDetail(status int, title, detail string, headers ...string) connectors.Reply {
	// Marshalling a struct of strings and a number cannot fail.
	body, _ := json.Marshal(struct {
		Type   string `json:"type"`
		Title  string `json:"title"`
		Status int    `json:"status"`
		Detail string `json:"detail,omitempty"`
	}{"about:blank", title, status, detail})
	r := connectors.Reply{Status: status, ContentType: "application/problem+json", Body: append(body, '\n')}
	if len(headers) > 0 {
		r.Header = make(http.Header, len(headers)/2)
		for i := 0; i+1 < len(headers); i += 2 {
			r.Header.Set(headers[i], headers[i+1])
		}
	}
	return r
}

// unreadable is the answer to a verified call that holds no events that can be read. The caller is who it says it is, so it is told what is wrong.
func unreadable(err error) connectors.Reply {
	detail := err.Error()
	if len(detail) > maxDetail {
		detail = strings.ToValidUTF8(detail[:maxDetail], "") + "…"
	}
	return problemDetail(http.StatusUnprocessableEntity, "the call could not be read", detail)
}

func write(w http.ResponseWriter, r connectors.Reply) {
	if r.Status == http.StatusOK && r.ContentType == "" && len(r.Header)+len(r.Body) == 0 {
		// What nearly every call hears. net/http writes the same bytes as for the headers below, and has none to copy.
		w.WriteHeader(http.StatusOK)
		return
	}
	h := w.Header()
	for name, values := range r.Header {
		h[http.CanonicalHeaderKey(name)] = values
	}
	if r.ContentType != "" {
		h["Content-Type"] = []string{r.ContentType}
	} else if len(r.Body) == 0 {
		h["Content-Type"] = nil
	}
	status := r.Status
	if status < 200 || status > 999 {
		status = http.StatusOK
	}
	if status != http.StatusNoContent && status != http.StatusNotModified {
		h["Content-Length"] = []string{strconv.Itoa(len(r.Body))}
	}
	w.WriteHeader(status)
	if len(r.Body) > 0 {
		// The caller may have gone; there is nobody left to tell.
		_, _ = w.Write(r.Body)
	}
}
