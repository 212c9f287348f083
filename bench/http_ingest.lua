-- wrk's script for bench_http_ingest: events with ids of their own, `events` a request (0: one, in binary mode).
-- Arguments: events, Authorization (may be empty), prefix of the ids. At the end: status counts on one line.
local threads = {}

function setup(thread)
   thread:set("number", #threads)
   table.insert(threads, thread)
end

function init(args)
   n = tonumber(args[1])
   prefix = args[3] .. number .. "-"
   count, ok, other, last_other = 0, 0, 0, 0
   headers = { ["Host"] = "x" }
   if args[2] ~= "" then headers["Authorization"] = args[2] end
   if n > 0 then
      headers["Content-Type"] = "application/cloudevents-batch+json"
   else
      headers["ce-specversion"] = "1.0"
      headers["ce-source"] = "/bench"
      headers["ce-type"] = "t"
      headers["ce-subject"] = "s"
   end
end

function request()
   if n == 0 then
      count = count + 1
      headers["ce-id"] = prefix .. count
      return wrk.format("POST", nil, headers, "")
   end
   local parts = {}
   for i = 1, n do
      count = count + 1
      parts[i] = '{"specversion":"1.0","id":"' .. prefix .. count ..
         '","source":"/bench","type":"t","subject":"s"}'
   end
   return wrk.format("POST", nil, headers, "[" .. table.concat(parts, ",") .. "]")
end

function response(status)
   if status == 202 then ok = ok + 1 else other = other + 1; last_other = status end
end

function done(summary, latency)
   local oks, others, last = 0, 0, 0
   for _, thread in ipairs(threads) do
      oks = oks + thread:get("ok")
      others = others + thread:get("other")
      if thread:get("last_other") > 0 then last = thread:get("last_other") end
   end
   io.write(string.format("figures %d %d %d %d %d %d\n", oks, others, last, summary.duration,
      latency:percentile(50), latency:percentile(99)))
end
