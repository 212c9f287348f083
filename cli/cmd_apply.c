/* triggerflow apply and validate: a workflow in one file. */
#include <json-c/json.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/error.h"
#include "cli/apply.h"
#include "cli/cli.h"
#include "cli/manifest.h"
#include "cli/output.h"
#include "cli/validate.h"

static int read_manifest(const struct cli *cli, struct manifest *ret)
{
    struct error err;
    const char *path = cli_value(cli, "file");
    if (!path)
        return cli_usage(cli, "which file? -f FILE, or -f - for standard input");
    if (manifest_read(path, ret, &err) < 0)
        return cli_fail_error(CLI_FAILED, &err);
    return CLI_OK;
}

static void print_findings(FILE *file, const struct findings *findings, enum finding_level worst_hidden)
{
    for (enum finding_level level = FINDING_ERROR; level < worst_hidden; level++) {
        size_t shown = 0;
        for (size_t i = 0; i < findings->n; i++) {
            const struct finding *finding = &findings->list[i];
            BUFFER_AUTO line = BUFFER_INIT;
            if (finding->level != level)
                continue;
            shown++;
            buffer_printf(&line, "%s: ", finding_level_name(level));
            const char *where = findings->text.data + finding->where;
            output_append_safe(&line, where);
            buffer_append_text(&line, *where ? ": " : "");
            output_append_safe(&line, findings->text.data + finding->what);
            fprintf(file, "%s\n", buffer_text(&line));
        }
        if (findings->counts[level] > shown)
            fprintf(file, "... and %zu more of the kind: %s\n", findings->counts[level] - shown,
                    finding_level_name(level));
    }
}

static int print_findings_json(const struct cli *cli, const struct findings *findings)
{
    static const char *const totals[] = {"errors", "warnings", "notes"};
    struct json_object *root = json_object_new_object(), *list = json_object_new_array();
    for (size_t i = 0; i < findings->n; i++) {
        const struct finding *finding = &findings->list[i];
        struct json_object *item = json_object_new_object();
        json_object_object_add(item, "level", json_object_new_string(finding_level_name(finding->level)));
        json_object_object_add(item, "where", json_object_new_string(findings->text.data + finding->where));
        json_object_object_add(item, "what", json_object_new_string(findings->text.data + finding->what));
        json_object_array_add(list, item);
    }
    json_object_object_add(root, "findings", list);
    for (int level = FINDING_ERROR; level <= FINDING_NOTE; level++)
        json_object_object_add(root, totals[level], json_object_new_int64((int64_t)findings->counts[level]));
    int code = output_document(cli, root);
    json_object_put(root);
    return code;
}

static int run_validate(struct cli *cli)
{
    struct manifest manifest = {0};
    struct findings findings = FINDINGS_INIT;
    int code = read_manifest(cli, &manifest);
    if (code != CLI_OK)
        return code;
    if (validate(&manifest, &findings) < 0)
        code = cli_fail_memory();
    else if (cli->json)
        code = print_findings_json(cli, &findings);
    else {
        print_findings(stdout, &findings, FINDING_NOTE + 1);
        printf("%zu error%s, %zu warning%s, %zu note%s\n", findings.counts[FINDING_ERROR],
               findings.counts[FINDING_ERROR] == 1 ? "" : "s", findings.counts[FINDING_WARNING],
               findings.counts[FINDING_WARNING] == 1 ? "" : "s", findings.counts[FINDING_NOTE],
               findings.counts[FINDING_NOTE] == 1 ? "" : "s");
    }
    if (code == CLI_OK && findings.counts[FINDING_ERROR] > 0)
        code = CLI_FAILED;
    findings_done(&findings);
    manifest_done(&manifest);
    return code;
}

/* What is wrong with the file stops apply; --force lets through what is only judged to be wrong, but not what
 * could not be read. */
static int check(const struct cli *cli, const struct manifest *manifest)
{
    struct findings findings = FINDINGS_INIT;
    int code = CLI_OK;
    if (validate(manifest, &findings) < 0)
        code = cli_fail_memory();
    else {
        print_findings(stderr, &findings, FINDING_NOTE);
        if (output_length(manifest->problems) > 0)
            code = cli_fail(CLI_FAILED, "nothing was applied: mend the errors first");
        else if (findings.counts[FINDING_ERROR] > 0 && !cli_flag(cli, "force"))
            code = cli_fail(CLI_FAILED, "nothing was applied: mend the errors, or insist with --force");
    }
    findings_done(&findings);
    return code;
}

static int run_apply(struct cli *cli)
{
    struct manifest manifest = {0};
    struct plan plan;
    int code = read_manifest(cli, &manifest);
    if (code != CLI_OK)
        return code;
    code = check(cli, &manifest);
    if (code == CLI_OK)
        code = plan_make(cli, &manifest, cli_flag(cli, "prune"), &plan);
    if (code == CLI_OK) {
        bool dry = cli_flag(cli, "dry-run");
        code = dry ? CLI_OK : plan_run(cli, &plan);
        if (code == CLI_FAILED)
            cli_fail(code, "not everything was applied: mend what is wrong, and apply the file again");
        if (code == CLI_OK)
            code = plan_show(cli, &plan, !dry);
        plan_done(&plan);
    }
    manifest_done(&manifest);
    return code;
}

static const struct cli_option apply_options[] = {
    {"file", "FILE", "the workflow, YAML or JSON; - reads standard input"},
    {"dry-run", NULL, "shows what would change, and changes nothing"},
    {"prune", NULL, "removes triggers, event sources and context members that the file lacks"},
    {"force", NULL, "applies it although validate finds errors"},
    {NULL, NULL, NULL}};
static const struct cli_option validate_options[] = {
    {"file", "FILE", "the workflow, YAML or JSON; - reads standard input"}, {NULL, NULL, NULL}};

const struct cli_command commands_apply[] = {
    {.noun = "apply",
     .arguments = "",
     .summary = "Makes a workspace what a file says",
     .details =
         "Creates the workspace when it is absent, adds and replaces what differs. A trigger whose "
         "definition\n"
         "in the file is the one that it was made from is left alone, with its state. A section that the\n"
         "file does not have is not touched, by --prune neither.",
     .options = apply_options,
     .examples = "triggerflow apply -f orders.yaml --dry-run\n"
                 "triggerflow apply -f orders.yaml --prune\n"
                 "generate-workflow | triggerflow apply -f -",
     .run = run_apply},
    {.noun = "validate",
     .arguments = "",
     .summary = "Checks a workflow's file, without a supervisor",
     .details =
         "Finds what the API would refuse, triggers that no event can reach and joins that cannot complete.\n"
         "The exit status is 1 when there are errors; warnings and notes are for you to judge.",
     .options = validate_options,
     .examples = "triggerflow validate -f orders.yaml",
     .run = run_validate},
    {0},
};
