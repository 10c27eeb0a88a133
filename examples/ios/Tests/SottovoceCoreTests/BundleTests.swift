import Foundation
import XCTest

@testable import SottovoceCore

/// Beside what Python wrote of a bundle: `expected.json` and `tokens/bundle/` in the folder that SOTTOVOCE_EXPECTED names.
final class BundleTests: XCTestCase {
    struct Case: Decodable {
        let sampling: Manifest.Sampling
        let head: Manifest.Head
        let stop: [Int]
        let seed: UInt64
        let minTokens: Int
        let logits: [[Float]]
        let tokens: [Int?]
    }
    struct Expected: Decodable {
        let maxPosition, slots, rows: Int
        let lastRow: [UInt16]
        let cases: [Case]
    }

    private func open() throws -> (URL, Expected) {
        guard let path = ProcessInfo.processInfo.environment["SOTTOVOCE_EXPECTED"] else {
            throw XCTSkip("SOTTOVOCE_EXPECTED names no folder")
        }
        let folder = URL(fileURLWithPath: path)
        let data = try Data(contentsOf: folder.appendingPathComponent("expected.json"))
        return (folder.appendingPathComponent("tokens/bundle"), try JSONDecoder().decode(Expected.self, from: data))
    }

    func testTheManifestAndItsTables() throws {
        let (bundle, expected) = try open()
        let manifest = try Manifest(folder: bundle)
        XCTAssertEqual(manifest.max_position, expected.maxPosition)
        XCTAssertEqual(manifest.cache.groups[0].slots, expected.slots)
        let table = try Table(bundle.appendingPathComponent(manifest.coreml.embedding))
        XCTAssertEqual(table.shape[0], expected.rows)
        XCTAssertEqual(table.row(expected.rows - 1).map(\.bitPattern), expected.lastRow)
        XCTAssertNoThrow(try Table(bundle.appendingPathComponent(manifest.coreml.positions)))
    }

    func testTheSamplerDrawsTheSameTokens() throws {
        for each in try open().1.cases {
            var sampler = Sampler(each.sampling, head: each.head, stop: each.stop, seed: each.seed, minTokens: each.minTokens)
            XCTAssertEqual(each.logits.map { sampler.draw($0) }, each.tokens, "\(each.sampling), seed \(each.seed)")
        }
    }
}
