package signature

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/json"
	"errors"
)

// OpenResource returns the plain text of a WeChat Pay notification's encrypted resource (AEAD_AES_256_GCM), which is JSON. The body has to have passed
// Verify. The error says what is missing; it holds nothing of body or key.
func (v *Verifier) OpenResource(body []byte) ([]byte, error) {
	if v.set.APIv3Key.IsZero() {
		return nil, errors.New("open resource: apiv3_key is not set")
	}
	var call struct {
		Resource struct {
			Ciphertext     []byte `json:"ciphertext"`
			Nonce          string `json:"nonce"`
			AssociatedData string `json:"associated_data"`
		} `json:"resource"`
	}
	if err := json.Unmarshal(body, &call); err != nil {
		return nil, errors.New("open resource: the body is not a notification with a base64 ciphertext")
	}
	block, err := aes.NewCipher([]byte(v.set.APIv3Key.Reveal()))
	if err != nil {
		return nil, errors.New("open resource: apiv3_key has the wrong length")
	}
	r := call.Resource
	aead, err := cipher.NewGCM(block)
	if err != nil || len(r.Nonce) != aead.NonceSize() {
		return nil, errors.New("open resource: the nonce has the wrong length")
	}
	plain, err := aead.Open(nil, []byte(r.Nonce), r.Ciphertext, []byte(r.AssociatedData))
	if err != nil {
		return nil, errors.New("open resource: it was not encrypted with apiv3_key, or was changed")
	}
	return plain, nil
}
