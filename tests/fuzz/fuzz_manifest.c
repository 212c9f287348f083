/* Workflows in one file, of any content: refused with a message, or judged; what was read is read again from
 * its canonical form. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <json-c/json.h>

#include "common/buffer.h"
#include "common/error.h"
#include "cli/document.h"
#include "cli/manifest.h"
#include "cli/output.h"
#include "cli/validate.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool condition)
{
    if (!condition)
        abort();
}

static void document(const char *text, size_t size)
{
    BUFFER_AUTO out = BUFFER_INIT;
    struct json_object *value = NULL, *again = NULL;
    struct error err = {0};
    if (document_parse("fuzz", text, size, &value, &err) < 0) {
        require(err.code != ERROR_NONE && *err.message);
        return;
    }
    document_canonical(value, &out);
    require(document_parse("fuzz.json", buffer_text(&out), out.len, &again, &err) == 0);
    output_redact(value);
    json_object_put(value);
    json_object_put(again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct manifest manifest;
    struct findings findings = FINDINGS_INIT;
    struct error err = {0};
    document((const char *)data, size);
    if (manifest_parse("fuzz.yaml", (const char *)data, size, &manifest, &err) < 0) {
        require(err.code != ERROR_NONE && *err.message);
        return 0;
    }
    require(validate(&manifest, &findings) == 0);
    for (size_t i = 0; i < findings.n; i++)
        require(findings.text.data[findings.list[i].what] != '\0');
    findings_done(&findings);
    manifest_done(&manifest);
    return 0;
}
