// The table on standard output, and the JSON report.
#pragma once

#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "bucketd/status.h"
#include "tools/bench/figure.h"

namespace bucketd {

void print_table_head();
void print_row(const FigureRow& row);
// Counts gates: met, not met, skipped.
void print_summary(const std::vector<FigureRow>& rows);

// {"machine": {...}, "figures": [an object for each gate], "details": [one for each other row]}.
nlohmann::json report_json(const std::vector<FigureRow>& rows, bool is_quick);
Status write_report(const std::filesystem::path& file, const std::vector<FigureRow>& rows,
                    bool is_quick);

}  // namespace bucketd
