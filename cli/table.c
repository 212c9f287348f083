/* See table.h. */
#include "cli/table.h"

#include <assert.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "cli/output.h"

#define GAP 2
#define COLUMN_MIN 4 /* columns are not cut below that */

struct range {
    uint32_t first, last;
};

/* Characters without a width: combining marks, joiners, variation selectors (Unicode 15, general categories
 * Mn, Me, Cf of the scripts in common use). */
static const struct range zero_width[] = {
    {0x0300, 0x036F}, {0x0483, 0x0489},  {0x0591, 0x05BD}, {0x0610, 0x061A}, {0x064B, 0x065F},
    {0x0900, 0x0902}, {0x093C, 0x093C},  {0x0941, 0x0948}, {0x094D, 0x094D}, {0x0E31, 0x0E31},
    {0x0E34, 0x0E3A}, {0x0E47, 0x0E4E},  {0x1AB0, 0x1AFF}, {0x1DC0, 0x1DFF}, {0x200B, 0x200F},
    {0x202A, 0x202E}, {0x2060, 0x2064},  {0x20D0, 0x20FF}, {0xFE00, 0xFE0F}, {0xFE20, 0xFE2F},
    {0xFEFF, 0xFEFF}, {0xE0100, 0xE01EF}};

/* East Asian Width W and F (Unicode Standard Annex 11), and emoji. */
static const struct range double_width[] = {
    {0x1100, 0x115F},   {0x231A, 0x231B},   {0x2329, 0x232A},   {0x23E9, 0x23EC},   {0x25FD, 0x25FE},
    {0x2614, 0x2615},   {0x2648, 0x2653},   {0x26A1, 0x26A1},   {0x26AA, 0x26AB},   {0x2705, 0x2705},
    {0x270A, 0x270B},   {0x2728, 0x2728},   {0x274C, 0x274C},   {0x2753, 0x2755},   {0x2795, 0x2797},
    {0x2E80, 0x303E},   {0x3041, 0x33FF},   {0x3400, 0x4DBF},   {0x4E00, 0x9FFF},   {0xA000, 0xA4CF},
    {0xA960, 0xA97C},   {0xAC00, 0xD7A3},   {0xF900, 0xFAFF},   {0xFE30, 0xFE6F},   {0xFF00, 0xFF60},
    {0xFFE0, 0xFFE6},   {0x1F300, 0x1F64F}, {0x1F680, 0x1F6FF}, {0x1F7E0, 0x1F7EB}, {0x1F900, 0x1F9FF},
    {0x1FA70, 0x1FAFF}, {0x20000, 0x3FFFD}};

static bool within(const struct range *ranges, size_t n, uint32_t c)
{
    for (size_t i = 0; i < n && ranges[i].first <= c; i++)
        if (c <= ranges[i].last)
            return true;
    return false;
}

/* The character at text (valid UTF-8) and its width; *ret_bytes: its length. */
static size_t character(const char *text, size_t *ret_bytes)
{
    const unsigned char *s = (const unsigned char *)text;
    size_t n = s[0] < 0x80 ? 1 : s[0] < 0xE0 ? 2 : s[0] < 0xF0 ? 3 : 4;
    uint32_t c = n == 1 ? s[0] : s[0] & (0x7Fu >> n);
    for (size_t i = 1; i < n; i++)
        c = c << 6 | (s[i] & 0x3Fu);
    *ret_bytes = n;
    if (within(zero_width, sizeof zero_width / sizeof *zero_width, c))
        return 0;
    return within(double_width, sizeof double_width / sizeof *double_width, c) ? 2 : 1;
}

size_t table_width(const char *text, size_t len)
{
    size_t width = 0, bytes;
    for (size_t at = 0; at < len; at += bytes)
        width += character(text + at, &bytes);
    return width;
}

size_t table_terminal_width(int fd)
{
    struct winsize size;
    if (!isatty(fd))
        return 0;
    const char *columns = getenv("COLUMNS");
    if (columns && atoi(columns) > 0)
        return (size_t)atoi(columns);
    return ioctl(fd, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

void table_init(struct table *table, const char *const *headers)
{
    *table = (struct table){.text = BUFFER_INIT};
    assert(headers[0]);
    for (; headers[table->n_columns]; table->n_columns++) {
        assert(table->n_columns < TABLE_COLUMNS_MAX);
        table->headers[table->n_columns] = headers[table->n_columns];
    }
}

void table_done(struct table *table)
{
    buffer_done(&table->text);
}

void table_cell(struct table *table, const char *text)
{
    output_append_safe(&table->text, text ? text : "");
    buffer_append_char(&table->text, '\0');
    table->n_cells++;
}

void table_cell_printf(struct table *table, const char *format, ...)
{
    char text[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    table_cell(table, text);
}

struct layout {
    size_t width[TABLE_COLUMNS_MAX];
};

static const char *header(const struct table *table, size_t column, bool *ret_right)
{
    const char *text = table->headers[column];
    *ret_right = text[0] == '>';
    return text + *ret_right;
}

/* Takes from the widest column, one by one, what is too much. */
static void fit(const struct table *table, size_t limit, struct layout *layout)
{
    size_t total = GAP * (table->n_columns - 1);
    for (size_t i = 0; i < table->n_columns; i++)
        total += layout->width[i];
    while (total > limit) {
        size_t widest = 0;
        for (size_t i = 1; i < table->n_columns; i++)
            if (layout->width[i] > layout->width[widest])
                widest = i;
        if (layout->width[widest] <= COLUMN_MIN)
            return;
        layout->width[widest]--;
        total--;
    }
}

static void append_spaces(struct buffer *out, size_t n)
{
    while (n-- > 0)
        buffer_append_char(out, ' ');
}

/* One cell in its width; cut ones end in an ellipsis. last: without spaces behind it. */
static void append_cell(struct buffer *out, const char *text, size_t width, bool right, bool last)
{
    size_t len = strlen(text), used = table_width(text, len), bytes;
    bool cut = used > width;
    if (cut) {
        size_t keep = 0;
        used = 1;
        for (size_t w; keep < len && used + (w = character(text + keep, &bytes)) <= width; keep += bytes)
            used += w;
        len = keep;
    }
    if (right)
        append_spaces(out, width - used);
    buffer_append(out, text, len);
    if (cut)
        buffer_append_text(out, "…");
    if (!right && !last)
        append_spaces(out, width - used);
    if (!last)
        append_spaces(out, GAP);
}

static void end_line(struct buffer *out)
{
    while (out->len > 0 && out->data[out->len - 1] == ' ')
        out->len--;
    buffer_append_char(out, '\n');
}

void table_write(const struct table *table, size_t width, struct buffer *out)
{
    struct layout layout = {0};
    bool right;
    out->failed |= table->text.failed;
    if (out->failed || table->n_columns == 0)
        return;
    for (size_t i = 0; i < table->n_columns; i++)
        layout.width[i] = strlen(header(table, i, &right));
    const char *at = table->text.data;
    for (size_t i = 0; i < table->n_cells; i++, at += strlen(at) + 1) {
        size_t used = table_width(at, strlen(at));
        if (used > layout.width[i % table->n_columns])
            layout.width[i % table->n_columns] = used;
    }
    if (width > 0)
        fit(table, width, &layout);
    for (size_t i = 0; i < table->n_columns; i++) {
        const char *text = header(table, i, &right);
        append_cell(out, text, layout.width[i], right, i + 1 == table->n_columns);
    }
    end_line(out);
    at = table->text.data;
    for (size_t i = 0; i < table->n_cells; i++, at += strlen(at) + 1) {
        size_t column = i % table->n_columns;
        header(table, column, &right);
        append_cell(out, at, layout.width[column], right, column + 1 == table->n_columns);
        if (column + 1 == table->n_columns)
            end_line(out);
    }
}

int table_print(const struct table *table, FILE *file)
{
    BUFFER_AUTO out = BUFFER_INIT;
    table_write(table, table_terminal_width(fileno(file)), &out);
    fputs(buffer_text(&out), file);
    return out.failed ? -1 : 0;
}
