/* JSON Merge Patch (RFC 7396). Thread: any. */
#pragma once

struct buffer;
struct json_value;

/* Appends the target with the patch applied: members that the patch gives as null are removed, objects are
 * merged, anything else is replaced. target NULL: there was nothing. */
void json_patch(const struct json_value *target, const struct json_value *patch, struct buffer *out);
